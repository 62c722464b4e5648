"""The engine's life in a service: settings, phases, who may ask, what is counted."""
