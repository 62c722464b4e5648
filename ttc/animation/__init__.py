"""A generation as a picture that moves: `ttc generate --save-steps FILE`.

timeline         events → what became of every token, frame by frame
layout           tokens → places on a grid of characters
look             colours and times that the pictures share
svg, html, gif   places and frames → one file
save             a timeline to a file, whose name's ending says which of the three
live             the same while it happens, for a terminal
"""
