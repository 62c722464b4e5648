"""What this machine can do with `ttc`: the work of `ttc doctor`."""
