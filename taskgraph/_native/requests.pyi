from typing import final

@final
class Arriving: ...

@final
class Sends: ...

@final
class Receives: ...
