"""From originals (photos, video) to a normalised, selected set of frames."""
