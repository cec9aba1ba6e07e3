"""The program that makes a small copy of one picture, in a process of its own: `python -m` this
module.

A picture comes from outside, and its decoder is native code. The first line of the input is the
task, with the picture as base64; the only line of the output is the copy.
"""

import base64
import io
import json
import sys


def main() -> int:
    """Read the task from stdin, write the pixels to stdout."""
    from PIL import Image, ImageOps

    task = json.loads(sys.stdin.readline())
    data = io.BytesIO(base64.b64decode(task["data"]))
    with Image.open(data, formats=("PNG", "JPEG", "GIF", "BMP")) as picture:
        picture.draft("RGB", (task["width"] * 2, task["height"] * 2))
        turned = ImageOps.exif_transpose(picture).convert("RGBA")
    turned.thumbnail((task["width"], task["height"]))
    flat = Image.new("RGBA", turned.size, (0x7F, 0x7F, 0x7F, 0xFF))
    flat.alpha_composite(turned)
    pixels = flat.convert("RGB")
    copy = {
        "width": pixels.width,
        "height": pixels.height,
        "rgb": base64.b64encode(pixels.tobytes()).decode(),
    }
    sys.stdout.write(json.dumps(copy) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
