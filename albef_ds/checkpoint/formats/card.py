"""Writes the model card: description, origin and use of a model, from its configuration and lineage alone."""

from __future__ import annotations

from albef_ds.checkpoint.formats.whole_model import WholeModel
from albef_ds.checkpoint.names import MOMENTUM, QUEUE
from albef_ds.data.text.tokenizer_file import CLEANING
from albef_ds.tasks.registry import kind_of


def model_card(model: WholeModel) -> str:
    """The text of README.md."""
    config = model.config
    vision, text, data = config.model.vision, config.model.text, config.evaluation_data
    uses = kind_of(config.task).uses
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in model.student.values()})
    lines = [
        "---",
        "library_name: albef_ds",
        "pipeline_tag: image-text-to-text" if "answer" in uses else "pipeline_tag: zero-shot-image-classification",
        "---",
        "",
        f"# ALBEF, {model.kind}",
        "",
        "Align before Fuse (Li et al., arXiv 2107.07651) as written by `albef_ds`.",
        "",
        "| | |",
        "|---|---|",
        f"| parameters | {model.parameters:,} ({', '.join(dtypes)}) |",
        f"| image encoder | ViT, {vision.depth} blocks of width {vision.width}, {vision.num_heads} heads, "
        f"patch {vision.patch_size}, {vision.image_size} px |",
        f"| text encoder | {text.num_layers} BERT layers of width {text.width}, {text.num_heads} heads |",
        f"| multimodal encoder | {text.num_fusion_layers} layers |",
        f"| momentum copy | {'yes' if model.part(MOMENTUM) else 'no'} |",
        f"| feature queue | {'yes' if model.part(QUEUE) else 'no'} |",
        "",
        "## Where it comes from",
        "",
        *[f"{number}. {line}" for number, line in enumerate(lineage_lines(model), start=1)],
        "",
        "## Texts",
        "",
        f"Captions are cleaned before they are numbered: {CLEANING}. At most {data.max_words} words and "
        f"{data.max_tokens or 'all'} tokens are kept, [CLS] first, {'[SEP] last' if data.sep_token else 'without [SEP]'}. "
        "`tokenizer.json` does all of it; with transformers: "
        '`AutoTokenizer.from_pretrained("FOLDER")(text, truncation=True)`.',
        "",
        "## Use",
        "",
        "```python",
        "import albef_ds",
        "",
        'model = albef_ds.load("FOLDER")',
        *_example(uses),
        "```",
        "",
    ]
    return "\n".join(lines)


def lineage_lines(model: WholeModel) -> list[str]:
    """A line per step of the lineage."""
    lines = []
    for step in model.lineage:
        rest = ", ".join(f"{key} {value}" for key, value in step.items() if key != "what" and value not in ("", None))
        lines.append(f"{step.get('what', 'unknown')}{': ' if rest else ''}{rest}")
    return lines or ["unknown"]


def _example(uses: tuple[str, ...]) -> list[str]:
    if "answer" in uses:
        return ['model.answer("picture.jpg", "what is on the table")']
    if "match" in uses:
        return [
            'features = model.encode_image(["picture.jpg"]), model.encode_text(["a red cup"])',
            'model.match(["picture.jpg"], ["a red cup"])',
        ]
    return ["model.task  # the torch module"]
