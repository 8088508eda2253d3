from collections.abc import Iterable

class AppConfig:
    name: str

class Apps:
    def get_app_configs(self) -> Iterable[AppConfig]: ...

apps: Apps
