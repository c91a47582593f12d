"""Hold infra/kuberay to KubeRay's own schemas: `python tests/infra/check_crds.py CRD.yaml ...`.

The schemas are ray.io_rayclusters.yaml and ray.io_rayjobs.yaml in ray-operator/config/crd/bases of
KubeRay's repository, too large to lie here (2 MB); test_infra.py checks the fields that matter
without them. A field that a schema does not know is an error here, though Kubernetes would only
drop it.
"""

import sys
from pathlib import Path
from typing import Any

import jsonschema
import yaml

MANIFESTS = Path(__file__).parents[2] / "infra" / "kuberay"


def strict(schema: Any) -> Any:
    """The schema as JSON schema, in which an object has no fields but those that it names."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {name: strict(value) for name, value in schema.items()}
    open_ = "additionalProperties" in made or made.get("x-kubernetes-preserve-unknown-fields")
    if made.get("type") == "object" and isinstance(made.get("properties"), dict) and not open_:
        made["additionalProperties"] = False
    return made


def main(paths: list[str]) -> int:
    """Print what is wrong; how many manifests were held to how many schemas."""
    schemas = {}
    for path in paths:
        crd = yaml.safe_load(Path(path).read_text())
        (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        schemas[crd["spec"]["names"]["kind"]] = schema
    checked = wrong = 0
    for path in sorted(MANIFESTS.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] not in schemas:
                continue
            checked += 1
            validator = jsonschema.Draft7Validator(schemas[document["kind"]])
            for error in validator.iter_errors(document):
                wrong += 1
                where = ".".join(map(str, error.absolute_path))
                print(f"{path.name}, {document['kind']}, {where}: {error.message[:300]}")
    print(f"{checked} manifests held to {len(schemas)} schemas: {wrong} errors")
    return int(wrong > 0 or checked == 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
