"""The Gradle files are not run here, so they are held against the Maven build, which is."""

from __future__ import annotations

import re
import tomllib
import xml.etree.ElementTree as ET

from support import ROOT

ANDROID = ROOT / "android_demo"
POM = "{http://maven.apache.org/POM/4.0.0}"


def gradle(module: str) -> str:
    """The build file of a module, without comments."""
    return re.sub(r"//.*", "", (ANDROID / module / "build.gradle.kts").read_text("utf-8"))


def properties() -> dict[str, str]:
    """Versions by name, of the parent POM."""
    found = ET.parse(ANDROID / "pom.xml").find(f"{POM}properties")
    assert found is not None
    return {child.tag.removeprefix(POM): child.text or "" for child in found}


def dependencies(module: str) -> dict[str, tuple[str, str, bool]]:
    """artifact -> (group, scope, optional), of a module's POM."""
    found = {}
    for each in ET.parse(ANDROID / module / "pom.xml").findall(f"{POM}dependencies/{POM}dependency"):
        told = {child.tag.removeprefix(POM): child.text or "" for child in each}
        found[told["artifactId"]] = told["groupId"], told.get("scope", "compile"), "optional" in told
    return found


def test_versions_are_the_same() -> None:
    catalogue = tomllib.loads((ANDROID / "gradle/libs.versions.toml").read_text("utf-8"))
    maven = properties()
    for name in ("kotlin", "coroutines", "bouncycastle", "onnxruntime"):
        assert catalogue["versions"][name] == maven[f"{name}.version"], name
    for name, library in catalogue["libraries"].items():
        assert library["version"]["ref"] in catalogue["versions"], name
    modules = "".join(map(gradle, ("engine", "android", "app")))
    used = set(re.findall(r"libs\.([a-z.]+)", modules))
    known = {name.replace("-", ".") for name in catalogue["libraries"]}
    plugins = set(re.findall(r"alias\(libs\.(plugins\.[a-z.]+)\)", modules))
    assert plugins == set(re.findall(r"alias\(libs\.(plugins\.[a-z.]+)\) apply false", gradle(".")))
    assert used <= known | {f"plugins.{name.replace('-', '.')}" for name in catalogue["plugins"]}


def test_the_engine_depends_on_the_same_libraries() -> None:
    catalogue = tomllib.loads((ANDROID / "gradle/libs.versions.toml").read_text("utf-8"))["libraries"]
    wanted = {}
    for artifact, (group, scope, optional) in dependencies("engine").items():
        if scope != "test" and artifact != "kotlin-stdlib":  # Gradle's plugin adds it
            wanted[f"{group}:{artifact.removesuffix('-jvm')}"] = optional
    found = {}
    for how, name in re.findall(r"(api|implementation|compileOnly)\(libs\.([a-z.]+)\)", gradle("engine")):
        found[catalogue[name.replace(".", "-")]["module"]] = how == "compileOnly"
    assert found == wanted


def test_the_compilers_are_told_the_same() -> None:
    pom = (ANDROID / "pom.xml").read_text("utf-8")
    arguments = set(re.findall(r"<arg>(-X[^<]*)</arg>", pom))
    assert arguments == set(re.findall(r'"(-X[^"]*)"', gradle("engine")))
    assert "-Xexplicit-api=strict" in (ANDROID / "engine/pom.xml").read_text("utf-8")
    assert "explicitApi()" in gradle("engine")
    assert "<jvmTarget>1.8</jvmTarget>" in pom
    for module in ("engine", "android", "app"):
        assert "JvmTarget.JVM_1_8" in gradle(module)
        assert "kotlinOptions" not in gradle(module)  # an error since Kotlin 2.2


def test_sources_lie_where_gradle_looks_for_them() -> None:
    modules = re.findall(r'":(\w+)"', (ANDROID / "settings.gradle.kts").read_text("utf-8"))
    assert sorted(modules) == ["android", "app", "engine"]
    for module in modules:
        assert list((ANDROID / module / "src/main/kotlin").rglob("*.kt")), module
    compiled = (ANDROID / "app/pom.xml").read_text("utf-8")
    for folder in ("src/main/kotlin", "../android/src/main/kotlin"):
        assert f"<sourceDir>{folder}</sourceDir>" in compiled
    adapter = re.search(r'srcDir\("([^"]*)"\)', gradle("android"))
    assert adapter
    assert list((ANDROID / "android" / adapter[1]).rglob("*.kt"))
    rules = re.findall(r'"([\w-]+\.pro)"', gradle("android") + gradle("app"))
    assert {"consumer-rules.pro", "proguard-rules.pro"} <= set(rules)


def test_android_8_and_no_permissions() -> None:
    makefile = (ANDROID / "Makefile").read_text("utf-8")
    for module in ("android", "app"):
        namespace = re.search(r'namespace = "([^"]*)"', gradle(module))
        assert namespace
        folder = ANDROID / module / "src/main/kotlin" / namespace[1].replace(".", "/")
        assert list(folder.glob("*.kt")), namespace[1]
        assert "minSdk = 26" in gradle(module)
        manifest = ET.parse(ANDROID / module / "src/main/AndroidManifest.xml").getroot()
        assert not [each.tag for each in manifest if each.tag.startswith("uses-permission")]
    assert "targetSdk = 35" in gradle("app")
    for flag in ("--min-api 26", "--min-sdk-version 26", "--target-sdk-version 35"):
        assert flag in makefile, flag
