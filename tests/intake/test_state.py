"""The state of an intake as people read it."""

from __future__ import annotations

from neuroferry.intake.state import show_state


def test_kept_objects_are_shown_as_their_folder() -> None:
    folder = "sourcedata/unassigned/sub-01/004-MPRAGE"
    row = {
        "number": 4,
        "n_objects": 160,
        "expected": None,
        "last_time": "2026-01-02T12:00:00.000Z",
        "state": "unassigned",
        "reason": "No rule matches it.",
        "files": [*(f"{folder}/{number:06}.dcm" for number in range(160)), f"{folder}/reason.txt"],
        "warnings": ["Look."],
    }
    state = {"series": [row], "quality": [], "rejected": {}, "turned_down": {}}
    assert show_state(state).splitlines() == [
        "2026-01-02T12:00:00  series 4, 160 objects: unassigned. No rule matches it.",
        f"    {folder}/",
        "    WARNING: Look.",
    ]
    row["files"] = ["sub-01/anat/sub-01_T1w.nii.gz"]
    assert "    sub-01/anat/sub-01_T1w.nii.gz" in show_state(state).splitlines()
