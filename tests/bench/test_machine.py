"""Laws of the record of what a measurement ran on."""

import dataclasses
import json

from stentor.bench import machine


def test_the_record_is_json_with_plausible_values() -> None:
    found = machine.this_machine()
    json.dumps(dataclasses.asdict(found))
    assert 1 <= found.cores <= 4096
    assert found.memory_bytes > 2**28
    assert found.python.startswith("3.")


def test_versions_name_what_is_installed() -> None:
    assert machine.versions()["numpy"][0].isdigit()


def test_the_load_is_a_number_or_unknown() -> None:
    load = machine.load_average()
    assert load is None or load >= 0


def test_a_missing_program_is_no_error() -> None:
    assert machine._output("no-such-program-here") == ""
