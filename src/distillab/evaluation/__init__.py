"""One protocol by which every model of a study is evaluated."""
