"""A generation as a picture that moves: `ttc generate --save-steps FILE`.

timeline   events → what became of every token, frame by frame
layout     tokens → places on a grid of characters
svg, html, gif   places and frames → one file
"""
