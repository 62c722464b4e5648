"""Speculative decoding with exact verification: drafts, what is accepted of them, and how much to draft."""
