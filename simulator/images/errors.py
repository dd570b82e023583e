"""What is said of image data that cannot be used."""


class ImageDataError(ValueError):
    """Image data that are missing, damaged or not what was asked for, in one sentence: which file, and what to do."""
