"""At run time: the engine, decoding below it, and the backends it runs on behind one interface."""
