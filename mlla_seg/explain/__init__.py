"""Pictures of what a trained network looks at: attention, receptive field, gates and token norms."""
