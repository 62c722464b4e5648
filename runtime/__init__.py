"""At run time: backends, context state, the block-filling loop, the engine."""
