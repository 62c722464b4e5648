"""One module per command of `ttc`, each with a click command of the same name; the work is done elsewhere."""
