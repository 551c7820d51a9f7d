"""File formats: an image file without its metadata, and the names of formats that are not read.

A damaged text, color profile or EXIF block does not touch the pixels. Pillow refuses some files for such damage, so they are read again
without the block. Only the parts that define pixels and orientation remain; the pixels themselves are never repaired.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
#: chunks of a PNG that define pixels or orientation; of all others, an upper-case first letter marks what a decoder must read
_PNG_KEPT = (b"tRNS", b"eXIf")
_PNG_FOUND_AGAIN = re.compile(b"PLTE|IDAT|IEND|tRNS")
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_WEBP_KEPT = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
#: flags of a VP8X chunk that announce a color profile, EXIF and XMP
_WEBP_METADATA = 0x20 | 0x08 | 0x04
#: tags of a TIFF that define pixels or orientation
_TIFF_KEPT = frozenset((*range(254, 260), 262, 266, *range(273, 276), *range(277, 280), 284, 292, 293, 317, *range(320, 326), 338, 339, 347,
                        *range(512, 522), *range(529, 533)))  # fmt: skip
_JPEG_TABLES = re.compile(rb"\xff[\xc0-\xc2\xc4\xdb\xdd]")
_JPEG_END = b"\xff\xd9"
#: bytes after the data of a JPEG without an end; pixels that depend on them are missing
_JPEG_TAILS = (b"\x55" * 64, b"\xaa" * 64)

#: how files start that tuner reads
_KNOWN = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|BM.{4}\0{4}|II\*\0|MM\0\*", re.DOTALL)
_FOREIGN = (
    (4, b"ftyphei", "a HEIC image"), (4, b"ftyphev", "a HEIC image"), (4, b"ftyphe", "a HEIC image"), (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftypmsf1", "a HEIF image"), (4, b"ftypavi", "an AVIF image"), (4, b"ftypcrx", "a camera raw image"), (4, b"ftyp", "a video"),
    (128, b"DICM", "a DICOM image"), (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"), (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"), (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"), (0, b"8BPS", "a Photoshop file"),
    (0, b"FUJIFILMCCD-RAW", "a camera raw image"), (0, b"IIU\0", "a camera raw image"), (0, b"\0\0\1\0", "an icon"),
    (0, b"SIMPLE  =", "a FITS image"), (0, b"v/1\x01", "an OpenEXR image"), (0, b"#?RADIANCE", "a Radiance image"),
    (0, b"qoif", "a QOI image"), (0, b"DDS ", "a DDS image"), (0, b"\x93NUMPY", "a NumPy array"), (0, b"\x89HDF", "an HDF5 file"),
    (344, b"n+1\0", "a NIfTI image"),
    (0, b"%PDF", "a PDF file"), (0, b"%!PS", "a PostScript file"), (0, b"PK\x03\x04", "a ZIP archive"), (0, b"\x1f\x8b", "a gzip file"),
    (8, b"AVI ", "a video"), (0, b"\x1aE\xdf\xa3", "a video"),
)  # fmt: skip
_FOREIGN_TEXT = (
    (rb"version https://git-lfs", "a pointer of Git LFS (fetch the file itself with: git lfs pull)"),
    (rb"<!doctype html|<html", "a web page (its download failed)"),
    (rb"(<\?xml.*)?<svg", "an SVG drawing"),
    (rb"<\?xml", "an XML file"),
    (rb"[{\[]", "a JSON file"),
    (rb"P[1-7]\s", "a PNM image"),
)  # fmt: skip
#: endings of image and video files that are not read, and what to call them
FOREIGN_SUFFIXES = {
    ".heic": "HEIC", ".heif": "HEIF", ".avif": "AVIF", ".dcm": "DICOM", ".dicom": "DICOM", ".jxl": "JPEG XL", ".jp2": "JPEG 2000",
    ".j2k": "JPEG 2000", ".jpx": "JPEG 2000", ".jpf": "JPEG 2000", ".svg": "SVG", ".psd": "Photoshop", ".ico": "ICO", ".tga": "TGA",
    ".ppm": "PNM", ".pgm": "PNM", ".pbm": "PNM", ".pnm": "PNM", ".pfm": "PNM", ".exr": "OpenEXR", ".hdr": "HDR", ".dds": "DDS",
    ".qoi": "QOI",
    ".nef": "camera raw", ".nrw": "camera raw", ".cr2": "camera raw", ".cr3": "camera raw", ".crw": "camera raw", ".arw": "camera raw",
    ".dng": "camera raw", ".raf": "camera raw", ".orf": "camera raw", ".rw2": "camera raw", ".pef": "camera raw", ".srw": "camera raw",
    ".raw": "camera raw", ".npy": "NumPy", ".npz": "NumPy", ".nii": "NIfTI", ".mha": "MetaImage", ".mhd": "MetaImage", ".nrrd": "NRRD",
    ".fits": "FITS", ".fit": "FITS", ".fts": "FITS", ".svs": "slide", ".ndpi": "slide", ".czi": "microscope", ".lif": "microscope",
    ".nd2": "microscope", ".h5": "HDF5", ".hdf5": "HDF5", ".mat": "MATLAB", ".pdf": "PDF", ".eps": "PostScript", ".ps": "PostScript",
    ".mp4": "video", ".mov": "video", ".avi": "video", ".mkv": "video", ".webm": "video", ".m4v": "video", ".apng": "APNG", ".pcx": "PCX",
    ".wbmp": "WBMP", ".xcf": "GIMP", ".emf": "EMF", ".wmf": "WMF", ".mpo": "MPO", ".jps": "JPS",
}  # fmt: skip


def is_known(content: bytes) -> bool:
    """Return whether a file is an image in a format that tuner reads, by its first bytes."""
    return _KNOWN.match(content) is not None


def name_of(content: bytes) -> str:
    """Return what a file is that is not an image of a known format, with its article, or "" if it is unknown."""
    for place, magic, name in _FOREIGN:
        if content[place : place + len(magic)] == magic:
            return name
    text = content[:2000].lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((name for pattern, name in _FOREIGN_TEXT if re.match(pattern, text, re.IGNORECASE | re.DOTALL)), "")


def without_metadata(content: bytes) -> Iterator[tuple[bytes, ...]]:
    """Yield replacements of a file, to be tried one after another.

    A replacement is the file without its metadata. If it has several parts, they are versions of the file that differ in bytes after its
    data: the pixels are whole only if all versions have the same pixels.
    """
    for magic, strip in _STRIPPERS.items():
        if content.startswith(magic):
            stripped = strip(content)
            if stripped is not None:
                yield (stripped,)
                if magic == b"\xff\xd8" and not stripped.rstrip(b"\0").endswith(_JPEG_END) and _has_all_scans(stripped):
                    yield tuple(stripped + tail + _JPEG_END for tail in _JPEG_TAILS)


def _png(content: bytes) -> bytes | None:
    kept, place = [_PNG], len(_PNG)
    while place + 8 <= len(content):
        (size,), kind = struct.unpack_from(">I", content, place), content[place + 4 : place + 8]
        end = place + 12 + size
        is_ancillary = len(kind) == 4 and kind.isalpha() and kind[:1].islower()
        if not _is_png_chunk(content, place) and (is_ancillary or not kind.isalpha()):
            end = next((found.start() - 4 for found in _PNG_FOUND_AGAIN.finditer(content, place + 8)
                        if _is_png_chunk(content, found.start() - 4)), len(content))  # fmt: skip
        elif not is_ancillary or kind in _PNG_KEPT:
            kept.append(content[place:end])
        place = len(content) if kind == b"IEND" else end
    return b"".join([*kept, _PNG_END])


def _is_png_chunk(content: bytes, place: int) -> bool:
    """Return whether a chunk with a correct checksum starts here."""
    if place < 0 or place + 12 > len(content):
        return False
    (size,) = struct.unpack_from(">I", content, place)
    end = place + 8 + size
    if end + 4 > len(content):
        return False
    checksum: int = struct.unpack_from(">I", content, end)[0]
    return zlib.crc32(content[place + 4 : end]) == checksum


def _jpeg(content: bytes) -> bytes | None:
    kept, place = [content[:2]], 2
    while place + 4 <= len(content):
        marker, size = content[place + 1], 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        segment, end = content[place : place + size], place + size
        if content[place] != 0xFF:
            return None
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == 0xDA:
            return b"".join([*kept, content[place:]])
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if is_metadata and content[end : end + 1] != b"\xff":
            # its length is wrong; a thumbnail inside could be taken for the image
            found = _JPEG_TABLES.search(content, place + 4)
            if found is None or b"\xff\xd8\xff" in content[place : found.start()]:
                return None
            end = found.start()
        elif not is_metadata or _is_kept_in_jpeg(marker, segment):
            kept.append(segment)
        place = end
    return None


def _is_kept_in_jpeg(marker: int, segment: bytes) -> bool:
    """Return whether a segment defines colors or orientation, and is complete enough to be read."""
    kinds = {0xE0: (b"JFIF\0", 16), 0xE1: (b"Exif\0\0", 18), 0xEE: (b"Adobe", 16)}
    start, least = kinds.get(marker, (b"", 1 << 20))
    return segment[4:].startswith(start) and len(segment) >= least


def _has_all_scans(content: bytes) -> bool:
    """Return whether the scans of a JPEG contain every coefficient to its last bit, as far as their headers say."""
    missing: dict[int, set[int]] = {}
    for found in re.finditer(rb"\xff\xda..(.)", content, re.DOTALL):
        num, start = found[1][0], found.end()
        spectrum = content[start + 2 * num : start + 2 * num + 3]
        if len(spectrum) < 3:
            return False
        for number in range(num):
            left = missing.setdefault(content[start + 2 * number], set(range(64)))
            if not spectrum[2] & 15:
                left.difference_update(range(spectrum[0], spectrum[1] + 1))
    frame = re.search(rb"\xff[\xc0-\xc2].{7}(.)", content, re.DOTALL)
    return frame is not None and len(missing) == frame[1][0] and not any(missing.values())


def _webp(content: bytes) -> bytes | None:
    if content[8:12] != b"WEBP":
        return None
    kept, place = [], 12
    while place + 8 <= len(content):
        kind, (size,) = content[place : place + 4], struct.unpack_from("<I", content, place + 4)
        chunk = content[place : place + 8 + size + size % 2]
        if kind == b"VP8X" and len(chunk) == 18:
            kept.append(chunk[:8] + bytes([chunk[8] & ~_WEBP_METADATA]) + chunk[9:])
        elif kind in _WEBP_KEPT:
            kept.append(chunk)
        place += len(chunk)
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(content: bytes) -> bytes | None:
    order = "<" if content.startswith(b"II") else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", content, 4)
        (num,) = struct.unpack_from(f"{order}H", content, start)
        entries = [content[place : place + 12] for place in range(start + 2, start + 2 + 12 * num, 12)]
        kept = [entry for entry in entries if struct.unpack(f"{order}H", entry[:2])[0] in _TIFF_KEPT]
    except struct.error:
        return None
    folder = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return content[:start] + folder + content[start + len(folder) :]


_STRIPPERS: dict[bytes, Callable[[bytes], bytes | None]] = {
    _PNG: _png,
    b"\xff\xd8": _jpeg,
    b"RIFF": _webp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
}
