"""Checks the demo APK: signature, dex, activity, no permissions, API 26, the bundle stored and unchanged."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path


def output(*command: str) -> str:
    """What a command prints; its failure is ours."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def check(apk: Path, bundle: Path) -> list[str]:
    """Every fault of the APK."""
    faults = []
    output("apksigner", "verify", "--min-sdk-version", "26", str(apk))
    output("zipalign", "-c", "-p", "4", str(apk))
    badging = output("aapt2", "dump", "badging", str(apk))
    permissions = output("aapt2", "dump", "permissions", str(apk))
    if "uses-permission" in permissions + badging:
        faults.append(f"it asks for permissions: {permissions}")
    if "launchable-activity: name='pocketrec.demo.MainActivity'" not in badging:
        faults.append("the activity cannot be launched")
    if "minSdkVersion:'26'" not in badging and "sdkVersion:'26'" not in badging:
        faults.append("it is not for API 26")
    with zipfile.ZipFile(apk) as archive:
        asset = archive.getinfo("assets/demo.bundle")
        if asset.compress_type != zipfile.ZIP_STORED:
            faults.append("the bundle is compressed")
        if hashlib.sha256(archive.read(asset)).digest() != hashlib.sha256(bundle.read_bytes()).digest():
            faults.append("the bundle inside is not the bundle")
        dex = archive.extract("classes.dex", apk.parent / "checked")
        for info in archive.infolist():
            sys.stdout.write(f"{info.compress_size:>10}  {info.filename}\n")
    classes = len(re.findall(r"Class descriptor", output("dexdump", str(dex))))
    if not classes:
        faults.append("the dex holds no classes")
    sys.stdout.write(f"{apk.stat().st_size:>10}  {apk.name}, {classes} classes\n")
    return faults


if __name__ == "__main__":
    found = check(Path(sys.argv[1]), Path(sys.argv[2]))
    if found:
        sys.exit("\n".join(found))
