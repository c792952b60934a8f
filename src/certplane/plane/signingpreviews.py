"""Answers SigningPreviews: what a signer of this control plane would make of a request.

What is asked is bounded like a CertificateSigningRequest, and costs what it costs to create one and to prepare its
certificate. The certificate is prepared in the threads in which others are signed; the CA key is not used.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable, Mapping

from certplane import errors, offload
from certplane.clock import Clock
from certplane.controllers.signing.signer import Signer
from certplane.explain import outlook
from certplane.meta.context import VerbContext
from certplane.resources import signingpreviews
from certplane.resources.signingpreviews import SigningPreview
from certplane.x509.pkcs10 import certificaterequest


class Answerer:
    """Answers with the signers that there are now."""

    def __init__(
        self, signers: Callable[[], Mapping[str, Signer]], clock: Clock, threads: concurrent.futures.Executor
    ) -> None:
        self._signers = signers
        self._clock = clock
        self._threads = threads

    async def answer(self, review: SigningPreview, call: VerbContext) -> SigningPreview:
        """The preview. Raises errors.Invalid."""
        problems = signingpreviews.RESOURCE.validate(review)
        if problems:
            raise errors.Invalid(review.kind, signingpreviews.GROUP, "", problems)
        text = review.spec.request or b""
        with contextlib.suppress(certificaterequest.RequestError):
            # The result is cached: what follows does not verify it again.
            await offload.run(call.size, certificaterequest.verified, text)
        question = outlook.judge(review.spec, self._signers(), self._clock.now())
        review.status = await asyncio.get_running_loop().run_in_executor(self._threads, question.prepare)
        return review
