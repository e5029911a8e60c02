"""Pydantic models in and out: inputs are validated before an execution exists, outputs come back as models."""

from decimal import Decimal

from pydantic import BaseModel, Field

from kitaru import checkpoint, flow


class Line(BaseModel):
    """One line of an order."""

    article: str
    pieces: int = Field(ge=1)
    price: Decimal


class Order(BaseModel):
    """What a customer sent."""

    customer: str
    lines: list[Line]


class Receipt(BaseModel):
    """What the customer gets."""

    customer: str
    total: Decimal
    articles: list[str]


@checkpoint
def add_up(lines: list[Line]) -> Decimal:
    """The total of all lines."""
    return sum((line.price * line.pieces for line in lines), Decimal(0))


@checkpoint
def write_receipt(order: Order, total: Decimal) -> Receipt:
    """The receipt of an order."""
    return Receipt(customer=order.customer, total=total, articles=[line.article for line in order.lines])


@flow(retries=1)
def check_out(order: Order) -> Receipt:
    """Turn an order into a receipt."""
    return write_receipt(order, add_up(order.lines))


if __name__ == "__main__":
    lines = [Line(article="notebook", pieces=3, price=Decimal("2.50"))]
    print(check_out.run(order=Order(customer="Ann", lines=lines)).wait())
