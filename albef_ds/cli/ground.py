"""`albef-ds ground`: locates a text in an image, as a heat map over it and a ranking of boxes."""

from __future__ import annotations

import json
from pathlib import Path

from albef_ds.cli.arguments import CommandParser, add_overrides
from albef_ds.cli.progress_bar import waiting
from albef_ds.common.atomic_files import check_target
from albef_ds.common.errors import ConfigError

EXAMPLES = """\
  heat maps of the sentence and of each word
      albef-ds ground --model runs/grounding --image street.jpg --text "the man with the red hat"
  rank boxes, given as LEFT,TOP,RIGHT,BOTTOM in pixels
      albef-ds ground --model runs/grounding --image street.jpg --text "red hat" --box 10,20,80,90 --box 200,40,260,120
  heat maps of all multimodal layers
      albef-ds ground --model runs/grounding --image street.jpg --text "red hat" --sweep"""


def main(argv: list[str]) -> int:
    """Writes the heat maps and prints the boxes. Raises `ConfigError` if the model, image or a box cannot be used."""
    command = CommandParser("ground", "Show where a text is in an image (Grad-CAM of the matching score).", EXAMPLES)
    command.add_argument("--model", required=True, metavar="PATH", help="a run, checkpoint or file with an ITM head")
    command.add_argument("--image", required=True, type=Path, metavar="FILE", help="the image")
    command.add_argument("--text", required=True, metavar="TEXT", help="what to find")
    command.add_argument("--box", action="append", default=[], metavar="L,T,R,B", help="a box to rank; may be given again")
    layers = command.add_mutually_exclusive_group()
    layers.add_argument("--layer", type=int, metavar="N", help="multimodal layer, from 0 (the middle one)")
    layers.add_argument("--sweep", action="store_true", help="a panel per layer instead of one per word")
    command.add_argument("--output", type=Path, default=Path("ground.png"), metavar="FILE", help="the PNG to write (ground.png)")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    command.add_argument("--json", action="store_true", help="print a JSON object with the boxes of each layer, best first")
    add_overrides(command, "settings that a released file does not hold")
    arguments = command.parse_intermixed_args(argv)
    check_target(arguments.output)
    if arguments.output.suffix.lower() != ".png":
        raise ConfigError(f"--output {arguments.output} is not a PNG file: give a name that ends with .png")
    boxes = [_box(text) for text in arguments.box]
    from albef_ds.evaluation.heatmap import overlay, panels, save_png  # start-up time
    from albef_ds.inference.model import load

    with waiting("reading the model"):
        model = load(arguments.model, device=arguments.device, overrides=arguments.overrides)
    depth = model.config.model.text.num_fusion_layers
    layers_shown = range(depth) if arguments.sweep else [arguments.layer]
    with waiting("drawing heat maps"):
        found = [model.ground(arguments.image, arguments.text, boxes, layer=layer) for layer in layers_shown]
    image = model.picture(arguments.image)
    names = [f"layer {layer}" if arguments.sweep else arguments.text for layer in layers_shown]
    entries = [(name, overlay(image, one.heatmap, [box for _, box in one.boxes])) for name, one in zip(names, found, strict=True)]
    if not arguments.sweep:
        entries += [(word, overlay(image, heat)) for word, heat in found[0].words]
    save_png(panels(entries), arguments.output)
    if arguments.json:
        boxes_of = {
            "default" if layer is None else str(layer): [{"box": list(box), "score": value} for value, box in one.boxes]
            for layer, one in zip(layers_shown, found, strict=True)
        }
        print(json.dumps({"layers": boxes_of, "picture": str(arguments.output)}, indent=1))
        return 0
    for number, one in enumerate(found):
        for place, (value, box) in enumerate(one.boxes, start=1):
            layer = f"layer {number} " if arguments.sweep else ""
            print(f"{layer}{place}. {','.join(f'{edge:g}' for edge in box)} {value:.4g}")
    print(f"written: {arguments.output}")
    return 0


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--box {text} is not a box: give LEFT,TOP,RIGHT,BOTTOM in pixels") from None
    return left, top, right, bottom
