"""Models of ``configs/*.yaml``: every key is known, every value has its type, every error names both."""

from bftembed.config.demo import DemoConfig as DemoConfig
from bftembed.config.demo import DemoTune as DemoTune
from bftembed.config.demo import ProfileSet as ProfileSet
from bftembed.config.loading import RECIPES as RECIPES
from bftembed.config.loading import check_config as check_config
from bftembed.config.loading import dump_config as dump_config
from bftembed.config.loading import load_config as load_config
from bftembed.config.loading import save_config as save_config
from bftembed.config.loading import show_config as show_config
from bftembed.config.tune import TuneConfig as TuneConfig
