"""What Pod Security's `restricted` profile would refuse."""

ALLOWED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"}
ALLOWED_VOLUMES |= {"secret"}


def violations(spec):
    """What Pod Security's `restricted` would say to a pod, and what we ask for beyond."""
    found = [f"{key} of the host" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    pod = spec.get("securityContext", {})
    found += [f"volume {v['name']}" for v in spec.get("volumes", []) if not (set(v) - {"name"}) <= ALLOWED_VOLUMES]
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        name, own = container["name"], container.get("securityContext", {})
        both = {**pod, **own}
        if not both.get("runAsNonRoot") or both.get("runAsUser") == 0:
            found.append(f"{name}: may be root")
        if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append(f"{name}: no seccomp profile")
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            found.append(f"{name}: may gain privileges")
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add"):
            found.append(f"{name}: has capabilities")
        if own.get("readOnlyRootFilesystem") is not True:
            found.append(f"{name}: may write to its root file system")
        found += [f"{name}: host port" for port in container.get("ports", []) if port.get("hostPort")]
    return found
