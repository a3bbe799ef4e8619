from cvpods.engine.base_runner import RunnerBase
from cvpods.engine.defaults import default_setup
from cvpods.engine.hooks import HookBase
from cvpods.engine.launch import launch
from cvpods.engine.runner import RUNNERS, DefaultRunner

__all__ = ["RUNNERS", "DefaultRunner", "HookBase", "RunnerBase", "default_setup", "launch"]
