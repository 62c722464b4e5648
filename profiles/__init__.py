"""The sizes that engines are built for: presets as TOML files in `presets/`, and what reads them."""
