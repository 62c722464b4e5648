"""The work of `ttc demo`: the miniature that comes with `ttc`, and diffusion against AR on it."""
