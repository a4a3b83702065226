"""The main job end to end, on models and cells that come in packages: what `bftembed demo` runs."""
