"""--schema: print the JSON Schema of round files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from roundhouse.cli.exit_codes import ExitCode
from roundhouse.config.round import json_schema


def run(options: argparse.Namespace, repository: Path) -> ExitCode:
    print(json.dumps(json_schema(), indent=2))
    return ExitCode.DONE
