"""Command line of the runtime: ``python -m mlla_seg.runtime model.onnx image.nii.gz mask.nii.gz``."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from mlla_seg.errors import InputError
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.ranks import ranks_of
from mlla_seg.inference.scenes import MapOptions
from mlla_seg.inference.sliding_window import BLENDS
from mlla_seg.inference.summaries import Summaries
from mlla_seg.progress import complain
from mlla_seg.runtime.predictor import Segmenter


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; an InputError exits with its message and status 2, without a traceback."""
    parser = ArgumentParser("python -m mlla_seg.runtime", description="Segment images with an exported network.")
    parser.add_argument("model", help="an .onnx, or OpenVINO's .xml, written by export")
    parser.add_argument("image", help="an image, a folder, a list of images (.txt), or a place such as /vsizip/...")
    parser.add_argument("output", help="the mask of a single image, or a folder for masks")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda with onnxruntime-gpu")
    parser.add_argument("--precision", default="fp32", help="fp32, or bf16 for an .xml on CPUs that support it")
    parser.add_argument("--batch_size", type=int, default=4, help="slices or windows at once; determines memory use")
    parser.add_argument("--window", type=int, help="side of the sliding window; default: training patch size")
    parser.add_argument("--overlap", type=float, default=0.5, help="overlap of these windows, as a fraction")
    parser.add_argument("--blend", choices=BLENDS, default="gaussian", help="weighting of overlapping windows")
    parser.add_argument("--cog", action="store_true", help="write masks of rasters as Cloud Optimized GeoTIFF")
    parser.add_argument("--polygons", help="also write raster masks as polygons: gpkg or geojson")
    parser.add_argument("--min_area_m2", type=float, help="components smaller than this join others in the polygons")
    parser.add_argument("--simplify", type=float, help="tolerance in metres of a simplification of the polygons")
    parser.add_argument("--probabilities", action="store_true", help="also write the probabilities of every class")
    parser.add_argument("--nodata", type=float, help="value of pixels without data, where files tag none")
    parser.add_argument("--postprocessing", choices=("true", "false"), default="true", help="false leaves it out")
    parser.add_argument("--format", help="format of volume masks: nii.gz, nrrd, seg.nrrd, ...")
    parser.add_argument("--overwrite", choices=("true", "false"), help="false keeps existing masks, true replaces any")
    parser.add_argument("--statistics", action="store_true", help="also write volumes or areas as statistics.csv")
    parser.add_argument("--preview", action="store_true", help="also write a PNG of each image with its mask")
    given = vars(parser.parse_args(argv))
    try:
        options = MapOptions(**{field.name: given[field.name] for field in fields(MapOptions) if field.name in given})
        segmenter = Segmenter(given["model"], given["device"], precision=given["precision"])
        if given["nodata"] is not None:
            segmenter.spec = replace(segmenter.spec, nodata=given["nodata"])
        summaries = Summaries(given["statistics"], given["preview"])
        if given["postprocessing"] == "false":
            segmenter.spec = replace(segmenter.spec, postprocessing=())
        where = given["image"], Path(given["output"])
        overwrite = {"true": True, "false": False, None: None}[given["overwrite"]]
        with (ranks := ranks_of()).speaking():
            segment_files(segmenter, *where, options, given["format"], overwrite, summaries, ranks)
    except InputError as error:
        sys.exit(_complain(str(error)))


def _complain(message: str) -> int:
    complain(message)
    return 2


if __name__ == "__main__":
    main()
