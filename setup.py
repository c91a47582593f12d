"""Finds the packages of the folders that pyproject.toml maps to packages."""

import tomllib
from pathlib import Path

from setuptools import find_packages, setup

project = tomllib.loads((Path(__file__).parent / "pyproject.toml").read_text())
folders = project["tool"]["setuptools"]["package-dir"]
setup(
    packages=[
        name
        for package, folder in folders.items()
        for name in (package, *(f"{package}.{inner}" for inner in find_packages(folder)))
    ]
)
