"""`ttc bench`: the modes of one model side by side in one run, their speed and their quality."""
