"""A model class of the first aipod: it knows nothing of the pod that serves it."""


class Hello:
    async def hello(self, context, path, **kwargs):
        """Says hello to whom the kwargs and the metadata name."""
        metadata = dict(context.invocation_metadata())
        with open(path, "rb") as payload:
            size = len(payload.read())
        return {"hello": kwargs.get("name", "world"), "user": metadata.get("x-user"), "version": kwargs.get("version"), "bytes": size}

    async def chaos(self, context, path, **kwargs):
        """Gives the payload back."""
        with open(path, "rb") as payload:
            return payload.read()
