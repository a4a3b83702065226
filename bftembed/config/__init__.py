"""Models of ``configs/*.yaml``: every key is known, every value has its type, every error names both."""

from bftembed.config.loading import RECIPES as RECIPES
from bftembed.config.loading import dump_config as dump_config
from bftembed.config.loading import init_config as init_config
from bftembed.config.loading import load_config as load_config
from bftembed.config.loading import save_config as save_config
from bftembed.config.loading import templates as templates
from bftembed.config.run import ProfileSet as ProfileSet
from bftembed.config.run import RunConfig as RunConfig
from bftembed.config.run import RunTune as RunTune
from bftembed.config.tune import TuneConfig as TuneConfig
