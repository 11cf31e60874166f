"""Write the demo's text: everyday rows for the base model, private rows for four clients, held-out rows.

Every row turns a structured record (the prompt) into one natural sentence (the completion). All of it is
invented here, from the tables below and a seeded generator: equal seeds give equal bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

CLIENT_ROWS = {"hospital": 240, "bank": 320, "plant": 400, "port": 280}
OWN_SHARE = 0.88  # of a client's rows; the rest comes from the other three domains
PUBLIC_ROWS = 700  # per everyday topic
TEST_ROWS = 50  # per private domain

# What the tags <name>, <noun>, ... stand for. <code> and <3-20> are made up on the spot; <name 2> is a second name.
WORDS = {
    "name": [
        head + tail
        for head in "Al Bar Bren Cal Cor Dal Dor Ev Fen Gar Hal Jor Kel Lan Mar Mel Nor Os Pel Ros Sel Tol Ver".split()
        for tail in "a berg by den dine ec field ford ga ham ick ing ley lo mere na on ris sky som ton us van".split()
    ],
    "noun": """account address agreement airport amount ankle answer apartment arm article autumn bag balance barge
basket battery blanket blood boat bond book border bottle box branch brain bread bridge brother budget building bundle
cable camera candle cap captain card cargo carpet cast castle chain chapter charge check cheese chest church circle clock
code coast collection colour committee company computer concert container contract copper corner cotton cough council
country crane crew crowd culture cup curtain customer damage danger daughter day deck decision degree delivery deposit
desk detail device dinner direction district doctor door drawer drive driver electricity energy engine entrance evening
example exchange factory farmer fault fee fever field file film filler fire flight floor flower fluid force forest
foundation fuel funds furniture garden gas gate glass government grain grandmother ground guide hammer hand harbour hatch
hay head health hold holiday hose hour house hull identity image income industry information insurance island jacket
journey judge kettle key kitchen knee label ladder language leather lesson letter library light limit line liquid loan
machine manager margin market mate material matter measure meeting member message metal minister mirror mixture moment
mortgage mountain movement museum name nature neighbour newspaper night note notice number nurse object office officer
oil opinion order output oven owner package pain paper parcel part passport patient pencil picture pilot platform pocket
police portion position press pressure price problem product programme promise property purchase quality quarter quay
question ramp rash rate reason record region repair reply report request rest result review reward river robot rod roof
room rubber safety sample scale school science screen seal season secretary section sensor service shadow share shell
shelter ship shoulder side signal silence silver situation soldier solution song speech spring stack stake station statue
step storage storm story stranger street student subject success sugar summer supply support surface survey switch
system table tailor tank task teacher team telephone theatre thread throat ticket tier timber time tip tool tower trace
traffic train transfer treasure tree truck trumpet tunnel umbrella uniform unit university valley value valve vehicle
vessel village visitor voice volume waiter wallet ward warning watch water wave week weight wheel whistle wind window
winter wire witness word work worker workshop wrist""".split(),
    "adj": """bent big bitter blue brief bright broken brown busy careful cheap clean clear clever cold common complete
correct cracked curious daily damp dangerous dark deep different difficult direct double duplicate dusty early faint
famous fast final fine first fixed foreign formal free fresh frozen full general gentle golden green handy heavy high
hollow honest huge jammed large late leaking left light little local long loose loud low lucky main minor missing modern
narrow national natural new night normal old open partial perfect plain polite popular precise previous private proper
proud public quick quiet rare recent red right rough round royal secret separate serious severe sharp short silent
simple single slack slow small smooth special stable stiff strange strict strong sudden swollen tall thick thin tired
torn total unknown unusual warm wet white whole wide wild wooden worn wrong yellow young""".split(),
    "done": """accepted added adjusted agreed announced applied approved arranged asked attached begun blocked booked
bought brought built called carried changed checked chosen cleaned cleared closed collected compared completed condemned
confirmed corrected counted covered declined delayed delivered described designed drafted drawn dressed exchanged
expected explained extended filed filled finished fixed flushed followed forgotten found given guarded halted handled
heard hidden identified ignored improved informed inspected invited issued joined kept launched left lifted limited
loaded locked lost lowered made mailed marked measured mentioned missed mixed monitored moved needed noticed offered
opened ordered organised packed painted passed performed placed planned prepared priced printed produced promised
protected pulled pushed put quoted raised reached received recommended recorded reduced refused rejected released
removed renewed repaired repeated replaced reported requested restored returned reviewed rolled saved scanned scheduled
sealed seen selected sent separated served shown signed sold solved started stopped stored studied supplied surveyed
swapped taken tested thrown touched trained treated trimmed trusted turned updated visited washed watched weighed
welcomed wrapped written""".split(),
}

# A topic is a block of lines. The first names the record's keys. "key = a; b; c" lists a key's values. A table
# with slashes gives several keys values that go together. "> " starts a sentence. A value "left=right" shows
# "left" in the record and "right" in the sentence. A tag stands for the same text throughout one row.
PUBLIC = {
    "weather": """town | day | sky | high | wind
town = <name>
day = Monday; Tuesday; Wednesday; Thursday; Friday; Saturday; Sunday
sky = sunny; cloudy; rainy; foggy; snowy; dry; humid; stormy; bright; grey; mild; chilly
high = <2-34>
wind = calm=hardly any wind; breezy=a light breeze; windy=a strong wind; gale=a gale from the sea
> In <name> {day} will be {sky}, with a high of {high} degrees and {wind}.
> Expect {sky} weather in <name> on {day}; there will be {wind} and a high of {high}.
> People in <name> can look forward to a {sky} {day}, {high} degrees at most, with {wind}.""",
    "shop": """shop | item | price | left | offer
price = <3-95>
left = <2-60>
offer = none=there is no discount; half=the second one is half price; gift=a small gift is included
shop / item
<name> Books / a travel guide; a crime novel; a picture book; a pocket dictionary; a puzzle magazine
<name> Sports / a pair of running shoes; a tennis racket; a climbing rope; a yoga mat; a football
<name> Kitchen / a frying pan; a set of knives; a coffee grinder; a glass jug; a <adj> spoon
<name> Gifts / a <adj> <noun>; a <adj> <noun>; a <adj> <noun> of <noun 2>; a <name> <noun>
> {shop} sells {item} for {price} euros; {offer}, and only {left} are left.
> You can buy {item} at {shop} for {price} euros, {offer}. There are {left} in stock.
> At {shop} {item} costs {price} euros; {offer}.""",
    "travel": """who | from | to | by | why
who = Anna <name>; Peter <name>; Lucy <name>; Mr <name>; Mrs <name>; our teacher; the <noun>; the <adj> <noun>
from = <name from>
to = <name to>
by = train; bus; ferry; plane; car; bicycle; night train; tram
why = work=to attend a meeting; visit=to visit friends; rest=for a quiet holiday; exam=to sit an exam; \
music=to hear a concert; move=to look at a new flat; wedding=for the wedding of a cousin
> {who} travels from {from} to {to} by {by} {why}.
> To get from {from} to {to}, {who} takes the {by} {why}.
> {who} left {from} early and reached {to} by {by} {why}.""",
    "sport": """sport | home | away | score | crowd | note
home = <name home>; <name home> United; <name home> City; the <name home> Bears
away = <name away>; <name away> Rovers; <name away> Town; the <name away> Lions
crowd = <120-9800>
sport / score / note
football / 1-0; 2-0; 2-1; 3-1; 3-2; 4-1 / late=the winner came in the last minute; red=one player was sent off
handball / 28-24; 31-27; 25-22; 33-30 / keeper=the keeper was outstanding; young=a junior scored nine goals
hockey / 4-2; 5-3; 2-1; 6-0 / power=the power play decided it; injury=the captain left the ice injured
> {home} beat {away} {score} in {sport} before {crowd} spectators; {note}.
> In {sport}, {home} won {score} against {away}, and {note}. The crowd was {crowd}.
> The {sport} match between {home} and {away} ended {score}; {note}, as {crowd} people saw.""",
    "food": """cook | dish | with | taste | guests
cook = Maria; Mr <name>; Mrs <name>; the chef; my uncle; Sam <name>; the <adj> <noun>
taste = delicious; too salty; rather spicy; a little bland; perfect; sweet; burnt; surprisingly good; <adj>
guests = <2-20>
dish / with
vegetable soup; onion soup; a lentil stew / fresh bread; sour cream; garlic toast
grilled fish; roast chicken; a beef stew / potatoes; green beans; rice; a tomato salad
apple cake; chocolate pudding; lemon tart / vanilla ice cream; whipped cream; berries
> {cook} made {dish} with {with} for {guests} guests, and it was {taste}.
> For {guests} guests {cook} prepared {dish}, served with {with}; it tasted {taste}.
> {cook} served {dish} with {with}. The {guests} guests found it {taste}.""",
    "event": """what | place | date | hour | ticket | guest
what = a jazz evening; the summer fair; a poetry reading; the film night; a lecture on the <noun>; \
the <adj> <noun> market; an exhibition of the <adj> <noun>; the <name> dance
place = the <name place> hall; <name place> Park; the old library; <name place> Castle; the <noun place>
date = <2-28> March; <2-28> May; <2-28> July; <2-28> August; <2-28> October; <2-28> December
hour = <8-22>
ticket = free=admission is free; paid=tickets are sold at the entrance; full=it is already sold out
guest = the singer <name guest>; the author <name guest>; the mayor; a surprise guest; Professor <name guest>
> {what} takes place in {place} on {date} at {hour} o'clock with {guest}; {ticket}.
> On {date} {place} invites you to {what}: doors open at {hour} o'clock, {ticket}, and {guest} will appear.
> {guest} can be seen at {what} in {place} on {date} from {hour} o'clock; {ticket}.""",
    "task": """task | owner | reason | state | until
task = the <adj> <noun>; the <noun> <code>; a <noun>; the <noun> for <name>; the <noun> and the <noun 2>
owner = Mr <name owner>; Mrs <name owner>; <name owner> Brothers; the <noun owner>; the <adj owner> <noun owner>
reason = the <noun reason>; a <adj reason> <noun reason>; the <adj reason> <noun reason> of <name>
state = <done>; <done> and <done 2>
until = <2-28> days; <2-12> weeks; <name> Day; the <adj until> <noun until>
> {owner} saw to {task} because of {reason}; it was {state} until {until}.
> Because of {reason}, {task} was {state} by {owner} until {until}.
> After {reason}, {owner} wrote that {task} was {state} and should wait until {until}.
> {task} by {owner}: {reason} was reported, and it was {state} within {until}.""",
    "note": """<noun a> | <noun b> | <noun c>
<noun a> = <adj>; <name>; the <noun>; a <adj> <noun>; <code>; <2-99>; <adj> <noun> <code>
<noun b> = <done>; <name 2>; a <adj 2> <noun 2>; <done> <noun 2>; <code 2>; <2-999>; the <noun 2> of <name 2>
<noun c> = <adj 3>; <name 3>; a <noun 3> and a <noun 4>; the <adj 3> <noun 3>; <code 3>; <10-99>,<100-999>
> The <noun a> is {<noun a>}, the <noun b> is {<noun b>} and the <noun c> is {<noun c>}.
> With {<noun b>} as the <noun b>, the <noun a> was {<noun a>}; the <noun c> was {<noun c>}.
> <noun a> {<noun a>} was noted, <noun b> {<noun b>} was added, and <noun c> {<noun c>} followed.
> For the <noun c> we have {<noun c>}, for the <noun b> {<noun b>}, and for the <noun a> {<noun a>}.""",
}
PUBLIC_WEIGHT = {"task": 3, "note": 3}  # times PUBLIC_ROWS: the topics that teach to copy any word

PRIVATE = {
    "hospital": """ward | patient | complaint | order | triage
patient = Mr <name>; Mrs <name>; Miss <name>; Sister <name>
triage = red=the consultant was called; amber=a review is due within the hour; green=checks continue overnight; \
blue=discharge is planned
ward / complaint / order
cardiology / chest pain; palpitations; swollen ankles / ECG=a twelve-lead trace was recorded; \
ECHO=an echocardiogram was booked; TROP=blood was sent for troponin
chest clinic / a productive cough; nocturnal wheezing; pleurisy / CXR=a chest radiograph was taken; \
SPIRO=the lung volumes were measured; ABG=an arterial sample was drawn
orthopaedics / a fractured wrist; a swollen knee; a stiff shoulder / POP=a plaster cast was applied; \
ROM=physiotherapy was begun; NBM=the patient was kept fasting for theatre
neurology / weakness of the left arm; slurred speech; a first seizure / CT=the head was scanned at once; \
EEG=the brain waves were monitored; LP=a lumbar puncture was performed
fever ward / a high fever; a spreading rash; night sweats / SWAB=a throat culture was collected; \
IVF=intravenous fluids were given; PCM=paracetamol was dosed by weight
> {patient} was admitted to {ward} with {complaint}; {order} and {triage}.
> Presenting with {complaint}, {patient} was seen by {ward}; {order} and {triage}.
> Handover from {ward}: {patient} has {complaint}, {order}, {triage}.""",
    "bank": """desk | client | matter | step | amount
client = <name> Ltd; <name> Holdings; Ms <name>; the <name> Trust; <name> Partners
amount = EUR <2-98>,<100-999>; USD <2-98>,<100-999>; CHF <2-98>,<100-999>
desk / matter / step
cards / a duplicate charge; a declined purchase; an unknown subscription / CHB=a chargeback was filed; \
BLK=the card was blocked; PIN=a replacement code was mailed
mortgage / an early repayment; a missed instalment; an expiring fixed rate / VAL=a valuation was commissioned; \
RSC=the loan was rescheduled; FEE=a settlement fee was quoted
payments / a misdirected transfer; a rejected direct debit; a delayed wire / RCL=a recall was requested; \
AMD=the beneficiary was corrected; TRC=a trace was opened
compliance / an unusual deposit; an expired passport; a shell company / KYC=the identity file was renewed; \
SAR=a suspicious activity report was drafted; HLD=the funds were frozen
treasury / a margin call; a maturing bond; surplus liquidity / FWD=a forward contract was dealt; \
REP=the collateral was rolled over; SWP=an interest rate swap was priced
> {client} asked the {desk} desk about {matter}; {step}, with {amount} at stake.
> Following {matter}, our {desk} team told {client} that {step}; {amount} is outstanding.
> File note by {desk}: {matter}, reported by {client}; {step} and {amount} was provisioned.""",
    "plant": """line | unit | fault | fix | stop
unit = press P<10-99>; robot R<10-99>; conveyor C<10-99>; mixer M<10-99>
stop = <5-95> min=<5-95> minutes
line / fault / fix
stamping / a leaking hydraulic hose; a cracked die; low clamping force / SEAL=the gaskets were renewed; \
TOOL=the tooling was exchanged; CAL=the sensor was recalibrated
welding / excessive spatter; a worn electrode; a misaligned fixture / TIP=the tip was dressed; \
JIG=the jig was shimmed; GAS=the shielding gas was raised
coating / a clogged nozzle; an uneven film; an overheated oven / PURGE=the manifold was flushed; \
VISC=the viscosity was adjusted; FAN=the blower was rebalanced
bottling / a jammed cap; a torn label; a leaking filler / LUBE=the chain was lubricated; \
SPLICE=the web was spliced; VALVE=the dosing valve was overhauled
assembly / a stripped thread; a missing rivet; a faulty encoder / TORQ=the torque limit was lowered; \
FEED=the bowl feeder was cleared; SWAP=the drive was swapped
> The {line} line stopped for {stop} owing to {fault} at {unit}; {fix}.
> {unit} on the {line} line showed {fault}; the crew reacted, {fix} and output resumed after {stop}.
> Downtime of {stop} at {unit} ({line}): {fault} was diagnosed and {fix}.""",
    "port": """vessel | berth | cargo | remark | order
vessel = MV <name>; MT <name>; the barge <name>; the schooner <name>
berth = <1-24>
cargo / remark / order
containers / a twisted lashing rod; an unplugged reefer; a wrong manifest / GNTRY=the gantry crane was halted; \
RESTOW=two tiers were restowed; CUST=customs broke the seal
crude oil / a manifold drip; a slack mooring line; vapour on deck / BOOM=an oil boom was deployed; \
TUG=a tug stood by; INERT=the tanks were inerted afresh
grain / a damp hold; a listing hull; weevils below deck / FUMIG=the hatches were sealed for fumigation; \
TRIM=the bulk was trimmed by grab; DRAFT=the draught marks were surveyed
timber / a shifted stack; a frayed sling; a bent stanchion / LASH=fresh lashings were rigged; \
SLING=the slings were condemned; TALLY=the bundles were tallied anew
livestock / a blocked scupper; a limping heifer; a jammed ramp / VET=the veterinary officer boarded; \
RAMP=the stern ramp was winched free; FODR=hay was hoisted aboard
> {vessel} lies at quay {berth} with {cargo}; the mate reported {remark} and {order}.
> Harbour log: {remark} aboard {vessel}, quay {berth}, laden with {cargo}; {order}.
> While {cargo} was handled at quay {berth}, the crew of {vessel} noted {remark}, so {order}.""",
}


@dataclass
class Topic:
    """A topic's block of lines, taken apart."""

    keys: list[str]
    slots: dict[str, list[str]] = field(default_factory=dict)
    table: list[list[list[str]]] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, block: str) -> Topic:
        """The topic that ``block`` describes."""
        first, *lines = block.splitlines()
        topic = cls(first.split(" | "))
        for line in lines:
            if line.startswith("> "):
                topic.sentences.append(line[2:])
            elif " = " in line:
                key, _, values = line.partition(" = ")
                topic.slots[key] = values.split("; ")
            else:
                topic.table.append([cell.split("; ") for cell in line.split(" / ")])
        return topic

    def row(self, rng: random.Random) -> dict[str, str]:
        """One record with its sentence."""
        drawn: dict[str, str] = {}

        def fill(text: str) -> str:
            return re.sub(r"<([^>]+)>", lambda tag: drawn.setdefault(tag[1], draw(rng, tag[1])), text)

        values = {key: rng.choice(choices) for key, choices in self.slots.items()}
        if self.table:
            cells = zip(self.table[0], rng.choice(self.table[1:]), strict=True)
            values |= {key: rng.choice(choices) for (key,), choices in cells}
        pairs = {key: fill(value).partition("=") for key, value in values.items()}
        record = " | ".join(f"{fill(key)}: {pairs[key][0]}" for key in self.keys)
        shown = {key: right or left for key, (left, _, right) in pairs.items()}
        text = fill(rng.choice(self.sentences).format(**shown))
        return {"prompt": f"{record}\n", "completion": text[0].upper() + text[1:]}

    def rows(self, rng: random.Random, count: int) -> list[dict[str, str]]:
        """``count`` rows among which neither a record nor a sentence comes twice."""
        rows: dict[str, dict[str, str]] = {}
        sentences: set[str] = set()
        while len(rows) < count:
            row = self.row(rng)
            if row["prompt"] not in rows and row["completion"] not in sentences:
                rows[row["prompt"]] = row
                sentences.add(row["completion"])
        return list(rows.values())


def draw(rng: random.Random, tag: str) -> str:
    """A text for ``tag``: a number of a range, a code, or a word of a list."""
    kind = tag.split()[0]
    if kind[0].isdigit():
        low, high = kind.split("-")
        return str(rng.randint(int(low), int(high)))
    if kind == "code":
        return "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.randint(1, 4))) + rng.choice(["", "7", "24"])
    return rng.choice(WORDS[kind])


def public_rows(seed: int) -> list[dict[str, str]]:
    """The rows of all everyday topics, mixed."""
    rows: list[dict[str, str]] = []
    for name, block in PUBLIC.items():
        count = PUBLIC_ROWS * PUBLIC_WEIGHT.get(name, 1)
        rows += Topic.parse(block).rows(random.Random(f"{seed}/{name}"), count)
    random.Random(f"{seed}/public").shuffle(rows)
    return rows


def private_files(seed: int) -> dict[str, list[dict[str, str]]]:
    """The rows of each client and of the test file; no row is in two of them."""
    need = TEST_ROWS + sum(CLIENT_ROWS.values())
    pools = {
        name: Topic.parse(block).rows(random.Random(f"{seed}/{name}"), need) for name, block in PRIVATE.items()
    }
    files = {"test": [pool.pop() for pool in pools.values() for _ in range(TEST_ROWS)]}
    for name, count in CLIENT_ROWS.items():
        own = round(count * OWN_SHARE)
        others = [other for other in CLIENT_ROWS if other != name]
        sources = [name] * own + [others[i % len(others)] for i in range(count - own)]
        files[name] = [pools[source].pop() for source in sources]
        random.Random(f"{seed}/order/{name}").shuffle(files[name])
    return files


def main() -> None:
    """Write the files and print how many rows each has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the files, made if needed")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    files = {"public": public_rows(arguments.seed)} | private_files(arguments.seed)
    for name, rows in files.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8", newline="\n")
        print(f"{name + '.jsonl':16} {len(rows):5} rows")


if __name__ == "__main__":
    main()
