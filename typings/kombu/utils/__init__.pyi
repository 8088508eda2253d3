from kombu.utils.functional import maybe_list as maybe_list, retry_over_time as retry_over_time
from kombu.utils.imports import symbol_by_name as symbol_by_name
from kombu.utils.objects import cached_property as cached_property
from kombu.utils.uuid import uuid as uuid
