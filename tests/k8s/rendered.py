"""Every folder that can be applied, rendered once a process."""

from tests.k8s.schema import K8S, Object, render

FOLDERS = [
    K8S / "base",
    *(path.parent for kind in ("overlays", "jobs") for path in sorted(K8S.glob(f"{kind}/*/kustomization.yaml"))),
]
RENDERED: dict[str, list[Object]] = {str(folder.relative_to(K8S)): render(folder) for folder in FOLDERS}
JOBS = [name for name in RENDERED if name.startswith("jobs/")]
