"""Payments through providers: begun, heard of, credited once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import OverDatabase
from storage.entries import add_available, enter, require_payer
from storage.errors import Missing
from storage.idempotency import claim
from storage.records import HOUSE_FEES, HOUSE_PAYMENTS, NewPayment, Once, Payment
from storage.tables import payments


class SqlPayments(OverDatabase):
    """`PaymentStore` over a database."""

    async def create_payment(self, payment: NewPayment, *, once: Once | None = None) -> Payment:
        """Enter a payment that nothing was heard of; Missing when there is no such account of a customer's, NotPayer
        when it has a parent."""
        row = {
            "id": payment.id,
            "account_id": payment.account_id,
            "amount": payment.amount_nano_usd,
            "fee": payment.fee_nano_usd,
            "provider": payment.provider,
            "reference": "",
            "url": "",
            "state": "pending",
        }

        async def work(connection: AsyncConnection) -> Payment:
            earlier = await claim(self._db, connection, once, payment.id)
            if earlier is not None:
                return await _present(connection, earlier)
            await require_payer(connection, payment.account_id)
            now_us = self._db.now_us()
            await connection.execute(self._db.insert(payments).values(**row, created_us=now_us, updated_us=now_us))
            return await _present(connection, payment.id)

        return await self._db.write(work)

    async def begin_payment(self, payment_id: str, *, reference: str, url: str) -> Payment:
        """Keep what the provider said of a payment. Missing when there is none. Safe to repeat."""

        async def work(connection: AsyncConnection) -> Payment:
            begun = update(payments).where(payments.c.id == payment_id).values(reference=reference, url=url)
            await connection.execute(begun)
            return await _present(connection, payment_id)

        return await self._db.write(work)

    async def end_payment(self, payment_id: str, *, paid: bool, note: str) -> Payment:
        """Credit a payment that was paid, two legs in the transaction that changes its state; or let it have failed.

        A paid one stays as it is, whatever is heard of it; a failed one may be paid yet. Missing when there is none.
        Safe to repeat.
        """

        async def work(connection: AsyncConnection) -> Payment:
            payment = await _present(connection, payment_id, lock=True)
            wanted = "paid" if paid else "failed"
            if payment.state in ("paid", wanted):
                return payment
            if paid:
                await self._credit(connection, payment, note)
            changed = update(payments).where(payments.c.id == payment_id)
            await connection.execute(changed.values(state=wanted, updated_us=self._db.now_us()))
            return await _present(connection, payment_id)

        return await self._db.write(work)

    async def payment(self, payment_id: str) -> Payment | None:
        """The payment; None when there is none."""
        found = await self._db.rows(select(payments).where(payments.c.id == payment_id))
        return Payment(*found[0]) if found else None

    async def payments(self, *, account_id: str | None, before: tuple[int, str] | None, limit: int) -> list[Payment]:
        """Newest first; `before` is (created_us, id) of the last one seen."""
        order = (payments.c.created_us, payments.c.id)
        statement = select(payments).order_by(*(column.desc() for column in order)).limit(limit)
        if account_id is not None:
            statement = statement.where(payments.c.account_id == account_id)
        if before is not None:
            statement = statement.where(tuple_(*order) < before)
        return [Payment(*row) for row in await self._db.listed(statement)]

    async def _credit(self, connection: AsyncConnection, payment: Payment, note: str) -> None:
        leg: tuple[Any, ...] = (HOUSE_PAYMENTS, payment.account_id, payment.amount_nano_usd)
        if not await enter(self._db, connection, payment.id, "topup", *leg, note=note):
            return  # the ledger's word counts: it was credited
        await add_available(connection, payment.account_id, payment.amount_nano_usd)
        if payment.fee_nano_usd:
            leg = (HOUSE_PAYMENTS, HOUSE_FEES, payment.fee_nano_usd)
            await enter(self._db, connection, payment.id, "fee", *leg, note=note)


async def _present(connection: AsyncConnection, payment_id: str, *, lock: bool = False) -> Payment:
    statement = select(payments).where(payments.c.id == payment_id)
    found = (await connection.execute(statement.with_for_update() if lock else statement)).first()
    if found is None:
        raise Missing(f"there is no payment {payment_id!r}")
    return Payment(*found)
