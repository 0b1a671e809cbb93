from pretrainx.core.vocabulary import SpecialIds, Vocabulary  # noqa: F401 - TEMPORARY alias, remove
