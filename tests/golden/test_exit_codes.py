"""What scripts around our commands rely on: the exit code of every error that a user can meet."""

from bamba_data import errors

CODES = {
    2: {
        *("UserError", "RecipeError", "TokenizerError", "SourceRefused", "DatasetNotFound", "WrongForm", "NoRoom"),
        *("OtherModel", "AccessDenied", "ClusterRefused"),
    },
    3: {"BudgetExceeded"},
    4: {"Unfinished"},
    5: {
        *("IntegrityError", "CorruptInput", "InputChanged", "StaleIndex", "UnsafePath", "CorruptManifest"),
        *("CorruptShard", "CorruptCheckpoint", "NotReproducible"),
    },
}


def test_no_error_changes_its_exit_code() -> None:
    for code, names in CODES.items():
        assert {name: getattr(errors, name).exit_code for name in names} == dict.fromkeys(names, code)
