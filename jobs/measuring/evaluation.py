"""The table evaluation: a row of measures for each run of counterfactuals."""

import pyarrow as pa

TABLE = "evaluation"
NUMBERS = (
    "flip_rate",
    "target_probability",
    "l1",
    "l2",
    "feature_distance",
    "lpips",
    "change_inside",
    "change_outside",
    "frechet",
)
SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("method", pa.string()),
        ("classifier", pa.string()),
        ("independent", pa.string()),
        ("images", pa.int32()),
        ("failed", pa.int32()),
        *((name, pa.float64()) for name in NUMBERS),
        (
            "attributes",
            pa.list_(
                pa.struct(
                    [("judge", pa.string()), ("target", pa.float64()), ("kept", pa.float64())]
                )
            ),
        ),
    ]
)
