"""What is written to disk and read back: one file per format, its first page the format itself."""
