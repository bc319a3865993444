"""``python -m mlla_seg.runtime model.onnx image.nii.gz mask.nii.gz``."""

from mlla_seg.runtime.predictor import main

main()
