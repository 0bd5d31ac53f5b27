"""Payments given back, whole or in parts."""

from __future__ import annotations

from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import OverDatabase
from storage.entries import add_available, enter
from storage.errors import BeyondPayment, Missing, Unaffordable
from storage.idempotency import claim
from storage.records import HOUSE_FEES, HOUSE_PAYMENTS, Once, Refund
from storage.tables import accounts, ledger, refunds


class SqlRefunds(OverDatabase):
    """The part of `LedgerStore` that gives back, over a database."""

    async def refund(
        self, *, refund_id: str, payment_id: str, amount_nano_usd: int, keep_fee: bool, once: Once
    ) -> Refund:
        """Take credit of a payment back from its account, and unless `keep_fee` its share of the fee from the house.

        Missing when there is no such payment; BeyondPayment when it is more than is left of it, Unaffordable when
        more than the account has available; ValueError unless amount > 0.
        """
        if amount_nano_usd <= 0:
            raise ValueError("a refund has an amount above 0")

        async def work(connection: AsyncConnection) -> Refund:
            earlier = await claim(self._db, connection, once, refund_id)
            if earlier is None:
                await self._refund(connection, refund_id, payment_id, amount_nano_usd, keep_fee)
            return Refund(
                *(await connection.execute(select(refunds).where(refunds.c.id == (earlier or refund_id)))).one()
            )

        return await self._db.write(work)

    async def _refund(
        self, connection: AsyncConnection, refund_id: str, payment_id: str, amount: int, keep_fee: bool
    ) -> None:
        account_id, credit, fee = await _payment(connection, payment_id)
        # The account's row stays locked from here on: refunds of one payment come one after the other.
        own = select(accounts.c.available + accounts.c.credit_limit).where(accounts.c.id == account_id)
        available = (await connection.execute(own.with_for_update())).scalar_one()
        earlier = select(cast(func.coalesce(func.sum(refunds.c.amount), 0), BigInteger))
        before = (await connection.execute(earlier.where(refunds.c.payment_id == payment_id))).scalar_one()
        if amount > credit - before:
            raise BeyondPayment(f"{credit - before} are left of the payment", left_nano_usd=credit - before)
        if amount > available:
            raise Unaffordable(f"the account has {available}", missing_nano_usd=amount - available)
        share = 0 if keep_fee else fee_share(fee, credit, before, amount)
        await add_available(connection, account_id, -amount)
        note = f"refund of {payment_id}"
        await enter(self._db, connection, refund_id, "refund", account_id, HOUSE_PAYMENTS, amount, note=note)
        if share:
            await enter(self._db, connection, refund_id, "fee", HOUSE_FEES, HOUSE_PAYMENTS, share, note=note)
        row = {"id": refund_id, "payment_id": payment_id, "account_id": account_id, "amount": amount, "fee": share}
        await connection.execute(self._db.insert(refunds).values(**row, created_us=self._db.now_us()))


def fee_share(fee: int, credit: int, before: int, amount: int) -> int:
    """What of a payment's fee belongs to the next `amount` of its `credit`, when `before` was given back already.

    Rounded down, but so that the shares of all parts add up to the fee, however the credit is divided.
    """
    return fee * (before + amount) // credit - fee * before // credit


async def _payment(connection: AsyncConnection, payment_id: str) -> tuple[str, int, int]:
    """The account that a payment was credited to, the credit, and the fee. Missing when there is none."""
    legs = select(ledger.c.kind, ledger.c.credit_account, ledger.c.amount).where(
        ledger.c.ref == payment_id, ledger.c.kind.in_(("topup", "fee"))
    )
    by_kind = {row.kind: row for row in await connection.execute(legs)}
    if "topup" not in by_kind:
        raise Missing(f"there is no payment {payment_id!r}")
    credit, fee = by_kind["topup"], by_kind.get("fee")
    return credit.credit_account, credit.amount, fee.amount if fee else 0
