"""Octets to text under whatever name a sender gave the character set. Source: WHATWG Encoding Standard §4.2 (labels).

`decode` never fails: an unknown set is guessed (UTF-8, else windows-1252), bad octets become U+FFFD. Only codecs in the
table are reachable, so that a label can never name one of Python's transformations.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_LABELS: Final = {
    "utf-8": "utf-8 utf8 unicode-1-1-utf-8 unicode11utf8 unicode20utf8 x-unicode20utf8 utf-8-mac cp65001",
    "cp866": "866 cp866 csibm866 ibm866",
    "iso8859-2": "csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2",
    "iso8859-3": "csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3",
    "iso8859-4": "csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4",
    "iso8859-5": "csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5 iso_8859-5:1988",
    "iso8859-6": "arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6 iso-8859-6-e "
    "iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987",
    "iso8859-7": "csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7 iso88597 iso_8859-7 "
    "iso_8859-7:1987 sun_eu_greek",
    "iso8859-8": "csiso88598e csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-ir-138 iso8859-8 iso88598 iso_8859-8 "
    "iso_8859-8:1988 visual csiso88598i iso-8859-8-i logical",
    "iso8859-10": "csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6",
    "iso8859-13": "iso-8859-13 iso8859-13 iso885913",
    "iso8859-14": "iso-8859-14 iso8859-14 iso885914",
    "iso8859-15": "csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9 latin9 latin-9",
    "iso8859-16": "iso-8859-16",
    "koi8-r": "cskoi8r koi koi8 koi8-r koi8_r",
    "koi8-u": "koi8-ru koi8-u",
    "mac-roman": "csmacintosh mac macintosh x-mac-roman",
    "cp874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874 cp874",
    "cp1250": "cp1250 windows-1250 x-cp1250",
    "cp1251": "cp1251 windows-1251 x-cp1251 cp-1251",
    "cp1252": "ansi_x3.4-1968 ansi_x3.4-1986 ascii us-ascii us csascii iso646-us cp1252 cp819 csisolatin1 ibm819 "
    "iso-8859-1 iso-ir-100 iso8859-1 iso88591 iso_8859-1 iso_8859-1:1987 l1 latin1 latin-1 windows-1252 x-cp1252 ansi",
    "cp1253": "cp1253 windows-1253 x-cp1253",
    "cp1254": "cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5 latin5 "
    "windows-1254 x-cp1254",
    "cp1255": "cp1255 windows-1255 x-cp1255",
    "cp1256": "cp1256 windows-1256 x-cp1256",
    "cp1257": "cp1257 windows-1257 x-cp1257",
    "cp1258": "cp1258 windows-1258 x-cp1258",
    "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "gb18030": "chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk gb18030 cp936 "
    "windows-936 euc-cn euccn",
    "hz": "hz hz-gb-2312",
    "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5 cp950 windows-950",
    "euc-jp": "cseucpkdfmtjapanese euc-jp x-euc-jp eucjp",
    "iso2022-jp-2": "csiso2022jp iso-2022-jp iso-2022-jp-1 iso-2022-jp-2 jis",
    "iso2022-jp-3": "iso-2022-jp-3 iso-2022-jp-2004",
    "cp932": "csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis cp932",
    "cp949": "cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 "
    "windows-949 cp949 uhc euckr",
    "johab": "johab cp1361",
    "iso2022-kr": "csiso2022kr iso-2022-kr",
    "utf-16": "unicode utf-16 ucs-2 iso-10646-ucs-2 csunicode",
    "utf-16-be": "unicodefffe utf-16be",
    "utf-16-le": "utf-16le unicodefeff",
    "utf-32": "utf-32 ucs-4 utf32",
    "utf-32-be": "utf-32be",
    "utf-32-le": "utf-32le",
    "utf-7": "utf-7 utf7 unicode-1-1-utf-7 x-unicode-2-0-utf-7 csunicode11utf7 cp65000",
    "cp437": "cp437 ibm437 437 cspc8codepage437",
    "cp850": "cp850 ibm850 850",
    "cp852": "cp852 ibm852 852",
    "cp737": "cp737 ibm737",
    "cp775": "cp775 ibm775",
    "cp855": "cp855 ibm855",
    "cp857": "cp857 ibm857",
    "cp858": "cp858 ibm858 ibm00858",
    "cp862": "cp862 ibm862",
    "cp864": "cp864 ibm864",
    "kz1048": "kz-1048 kz1048 strk1048-2002",
    "ptcp154": "ptcp154 pt154 cp154",
}
CODECS: Final = {label: codec for codec, labels in _LABELS.items() for label in labels.split()}
"""Label in lower case → the Python codec that reads it."""

_OUTSIDE: Final = re.compile(r"[\s\"'\x00]+")


@lru_cache(maxsize=256)
def _codec_for(label: str) -> str | None:
    return CODECS.get(_OUTSIDE.sub("", label).lower().replace("_", "-")) or CODECS.get(label.strip().lower())


def codec_for(label: str) -> str | None:
    """The codec for a charset label as found in mail, or None if nobody knows it."""
    return _codec_for(label[:80])


def decode(octets: bytes, label: str) -> str:
    """The text of `octets` in the set that `label` names; U+FFFD stands for what is not in it. Never raises."""
    codec = codec_for(label)
    if codec is None or codec == "cp1252":
        return guess(octets)
    try:
        return octets.decode(codec, "replace")
    except (UnicodeError, ValueError, OverflowError):
        return guess(octets)  # some multi-octet codecs give up in spite of "replace"


def guess(octets: bytes) -> str:
    """Text without a usable label: UTF-8 where it is valid, else windows-1252 (which Latin 1 means too)."""
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets.decode("cp1252", "replace")
