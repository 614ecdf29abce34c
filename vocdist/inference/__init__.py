"""Using trained models: images of any kind in, named results out, by evaluation's own steps."""
