"""What is generated from the code is up to date, and right."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from golden.make import GOLDEN, summarize

from fedlpp_cli.records.headers import FORMAT

ROOT = Path(__file__).parents[2]


def test_generated_pages_and_schemas_are_up_to_date():
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (result.stdout, result.returncode) == ("", 0)


@pytest.mark.parametrize("path", sorted((GOLDEN / f"v{FORMAT}").iterdir()), ids=lambda path: path.name)
def test_golden_headers_fit_their_json_schema(path):
    found = summarize(path)
    schema = json.loads((ROOT / "artifacts" / "schema" / f"{found['kind']}.schema.json").read_text())
    jsonschema.validate(found["header"], schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found["header"], "round": -1}, schema)
