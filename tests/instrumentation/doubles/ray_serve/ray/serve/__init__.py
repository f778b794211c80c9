from types import SimpleNamespace

deployments = {}


def status():
    applications = {
        name: SimpleNamespace(deployments=dict.fromkeys(names))
        for name, names in deployments.items()
    }
    return SimpleNamespace(applications=applications)
