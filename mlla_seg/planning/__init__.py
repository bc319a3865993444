"""Planning: from a folder of images and masks to a card and a config that train on it."""
