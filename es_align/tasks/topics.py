"""The topics of the `instructions` task, hand-written: training and held-out topics share no name.

A topic's `keywords` are whole words an answer can be asked to use; together with the stems they are
what counts as speaking about it. A stem matches at the start of a word, one of three letters or
fewer only a whole word; an underscore stands for a blank. The first stem is the topic's own name
(a stroke parts two forms of it). Words that fit any topic (people, place, good, day) are left out
on purpose: an answer made of them is about nothing.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Split = Literal["train", "heldout"]
Kind = Literal["animal", "food", "place", "person", "object", "nature", "activity"]


class Topic(NamedTuple):
    """A thing a short answer can be about."""

    name: str  # as it stands in a sentence: "a bakery", "bees"
    kind: Kind  # which questions suit it
    keywords: tuple[str, ...]
    stems: tuple[str, ...]

    @property
    def name_stems(self) -> tuple[str, ...]:
        """Stems whose mention names the topic."""
        return tuple(self.stems[0].split("/"))

    @property
    def words(self) -> tuple[str, ...]:
        """What else counts as speaking about the topic."""
        return self.keywords + self.stems[1:]


def _topics(kind: Kind, table: str) -> tuple[Topic, ...]:
    """Rows of `name | keywords | stems`."""
    rows = (tuple(part.strip() for part in row.split("|")) for row in table.strip().splitlines())
    return tuple(
        Topic(
            name,
            kind,
            tuple(keywords.split()),
            tuple(stem.replace("_", " ") for stem in stems.split()),
        )
        for name, keywords, stems in rows
    )


TRAIN_TOPICS: tuple[Topic, ...] = (
    *_topics(
        "animal",
        """
        bees | honey hive pollen flower | bee insect wing nectar colon wax sting queen plant fly
        cats | whisker purr tail mouse | cat kitten pet feline fur paw claw meow hunt mammal
        penguins | colony feather waddle beak | penguin bird swim ice antarctic fish egg krill cold
        elephants | trunk tusk herd ivory | elephant mammal ear memor africa calf grass leaves
        owls | feather hoot prey talon | owl bird nocturnal night eye hunt fly wing mouse mice nest
        whales | ocean blubber plankton song | whale mammal sea marine swim fin krill fish dive
        horses | saddle stable hoof mane | horse ride gallop hooves grass hay graz pony racing tail
        ants | colony nest queen crumb | ant insect worker tunnel soil leaves sugar seed forag
        spiders | silk prey leg venom | spider web insect arachnid eight spin bite crawl fly flies
        butterflies | wing nectar cocoon caterpillar | butterfl insect flower fly flutter antenna
        wolves | pack howl fur prey | wolf/wolves hunt wild forest predator dog cub deer meat
        ducks | pond feather bill nest | duck bird swim water quack egg web lake fly grass
        sharks | ocean fin gill prey | shark fish teeth tooth sea swim predator hunt marine seal
        snakes | scale venom skin prey | snake reptile slither fang mice rodent egg legless tongue
        camels | hump desert sand caravan | camel water dry heat thirst grass mammal ride leaves
        """,
    ),
    *_topics(
        "food",
        """
        honey | spoon jar nectar bread | honey bee sweet hive sugar syrup sticky flower golden tea
        cheese | milk cream curd slice | chees dairy cow flavo cheddar ferment goat bread salt wine
        coffee | bean roast aroma mug | coffee caffein drink brew cup bitter espresso milk water
        tea | leaf kettle steam cup | tea drink hot brew herb leaves water black green lemon
        chocolate | cocoa bar candy dessert | chocolat sweet sugar dark milk bean cake cream bitter
        mushrooms | spore soup forest stem | mushroom fung edible poison toadstool sauc cook earthy
        apples | orchard pie cider core | apple fruit tree crisp red juic sweet tart snack
        potatoes | peel soup fries soil | potato vegetable starch root cook boil bake mash salt
        rice | grain paddy bowl steam | rice cook staple crop boil starch water asia bean sauce
        ice cream | cone vanilla scoop freezer | ice_cream cold sweet dessert frozen milk sugar
        lemons | sour juice peel yellow | lemon citrus fruit vitamin acid tart tree zest water
        tomatoes | salad sauce vine soup | tomato fruit vegetable red juic ripe pasta seed sweet
        popcorn | kernel butter movie bowl | popcorn corn salt snack heat oil crunch cinema caramel
        """,
    ),
    *_topics(
        "place",
        """
        a bakery | bread flour oven dough | bake/baking yeast pastr cake loaf crust cookie sweet
        a library | book shelf quiet magazine | librar read borrow study student research novel
        a garden | soil seed flower weed | garden plant grow herb tree fruit vegetable green water
        a castle | tower moat knight wall | castle king queen stone fort royal gate medieval defen
        a hospital | nurse doctor patient surgery | hospital medic health treat ill sick emergenc
        a museum | exhibit painting statue visitor | museum artist histor artifact cultur collect
        a farm | field barn tractor crop | farm harvest grow plant cow livestock vegetable chicken
        a train station | platform ticket track train | station passenger rail travel arriv depart
        a beach | sand wave shell towel | beach sea ocean swim sun shore coast water surf
        a zoo | cage lion monkey visitor | zoo elephant giraffe bear wild species keeper tiger
        a restaurant | menu waiter chef table | restaurant food meal cook customer dining diner
        a swimming pool | lane water diver towel | swim pool exercis float lifeguard chlorin wet
        """,
    ),
    *_topics(
        "person",
        """
        a farmer | field crop tractor barn | farm harvest grow plant land cow livestock soil wheat
        a tailor | needle thread fabric suit | tailor sew cloth garment stitch measur fit dress
        a dentist | tooth cavity gum drill | dentist teeth dental clean mouth oral floss brush
        a firefighter | hose smoke ladder rescue | fire burn helmet flame emergenc truck blaze siren
        a magician | trick card wand rabbit | magic audience illusion hat perform stage entertain
        a pilot | cockpit runway flight cabin | pilot plane aircraft fly land airport air passenger
        a chef | kitchen knife recipe menu | chef cook food meal restaurant ingredient flavo dish
        a carpenter | wood hammer nail saw | carpent furniture build table cut chair house tool
        a pirate | treasure ship sail island | pirate sea gold rob steal captain crew plunder sword
        """,
    ),
    *_topics(
        "object",
        """
        a piano | music melody pedal keyboard | piano keys instrument play sound string song hammer
        a bicycle | wheel pedal chain helmet | bicycl/bike ride cycl brake handlebar tire road seat
        a violin | bow string orchestra melody | violin music instrument play sound wood tune song
        a kite | string wind tail breeze | kite fly sky flies air toy paper soar cloth
        a candle | wax wick flame glow | candle light burn melt scent dark warm fire birthday
        a bridge | river steel arch cable | bridge cross road car span structure traffic connect
        a compass | needle north magnet direction | compass navigat map south east hike travel
        a camera | lens photo shutter flash | camera picture image captur light film digital zoom
        a sailboat | mast wind deck anchor | sail boat sea water rope harbo ocean vessel lake
        a mirror | glass reflection frame silver | mirror image surface light face bathroom vanity
        a clock | hour minute dial pendulum | clock time second tick alarm watch hand wall gear
        a lighthouse | ship coast lamp rock | lighthouse light tower sea sailor boat harbo shore
        """,
    ),
    *_topics(
        "nature",
        """
        the moon | crater orbit night tide | moon lunar satellite sky planet astronaut earth sun
        rain | cloud umbrella drop puddle | rain water weather wet storm drizzl sky precipitat flood
        a volcano | lava ash crater magma | volcan erupt rock mountain gas molten earth crust smoke
        snow | flake winter sled frost | snow cold white ice weather frozen freez melt crystal
        the stars | galaxy telescope night constellation | stars/starlight sky light universe sun
        a river | bank current stream delta | river water flow fish lake sea boat ocean canoe
        the ocean | wave coral tide shark | ocean sea water marine fish salt deep beach whale
        a tree | branch leaf root bark | tree oxygen forest shade leaves wood grow trunk fruit
        the desert | sand cactus dune heat | desert dry hot camel arid rain oasis sun water
        """,
    ),
    *_topics(
        "activity",
        """
        chess | king queen pawn strategy | chess board game piece player opponent checkmate move
        football | goal team ball referee | football soccer player game sport kick field score match
        camping | tent campfire backpack trail | camping outdoor marshmallow fire sleep forest hike
        fishing | hook river bait lake | fish rod catch boat water caught net worm patien
        knitting | yarn needle scarf wool | knit stitch sweater thread pattern craft hat fabric loop
        """,
    ),
)

HELDOUT_TOPICS: tuple[Topic, ...] = (
    *_topics(
        "animal",
        """
        dolphins | ocean fin pod leap | dolphin mammal swim marine sea fish intelligen play water
        frogs | pond tadpole croak tongue | frog amphibian jump water insect skin green hop fly
        tigers | stripe jungle roar prey | tiger cat hunt wild predator orange fur carnivor meat
        turtles | shell beach nest flipper | turtle reptile slow swim sea egg tortoise water lay
        sheep | wool flock shepherd lamb | sheep graz farm grass meat herd fleece livestock lawn
        parrots | feather beak cage jungle | parrot bird fly mimic wing colorful seed fruit nut
        """,
    ),
    *_topics(
        "food",
        """
        pizza | cheese tomato crust slice | pizza dough oven topping bake sauce pepperoni ital
        carrots | root orange soup rabbit | carrot vegetable vitamin crunch salad sweet raw garden
        strawberries | jam cream patch basket | strawberr fruit red sweet berr juic seed dessert
        bread | wheat flour yeast toast | bread bake loaf dough oven crust slice sandwich butter
        bananas | peel bunch yellow smoothie | banana fruit sweet potassium tropical ripe dessert
        """,
    ),
    *_topics(
        "place",
        """
        a post office | stamp envelope parcel counter | post_office mail package send deliver
        a school | teacher lesson pupil homework | school learn student educat study class knowledge
        a circus | clown tent acrobat trapeze | circus perform juggl elephant audience entertain
        a supermarket | aisle cart shelf cashier | supermarket shop food buy grocer vegetable store
        """,
    ),
    *_topics(
        "person",
        """
        a plumber | pipe leak drain faucet | plumb water repair fix install toilet sink wrench
        a fisherman | boat hook river bait | fish net catch sea rod water caught ocean bucket
        a barber | scissors razor beard comb | barber hair cut shav trim style groom mustache salon
        """,
    ),
    *_topics(
        "object",
        """
        a guitar | string chord melody strum | guitar music instrument play sound rock fret song
        a balloon | helium string party float | balloon air gas inflat rubber fill pop birthday
        a windmill | grain flour blade farm | wind mill energy turn electric power pump rotat field
        a blanket | wool warm sleep fabric | blanket bed soft cozy cold cover comfort cotton knit
        an umbrella | handle storm canopy fabric | umbrella rain dry wet weather shade sun fold
        """,
    ),
    *_topics(
        "nature",
        """
        a mountain | peak summit climb valley | mountain high hike snow rock slope land elevat earth
        the sun | light heat planet energy | sun/sunlight/sunshine stars warm solar earth gas sky
        the wind | breeze gust sail storm | wind air blow weather turbine pressure move energy kite
        a rainbow | color arc prism violet | rainbow sky light sun water bright spectrum drop indigo
        a waterfall | cliff river mist cascade | waterfall water rock stream flow drop pool plung
        """,
    ),
    *_topics(
        "activity",
        """
        tennis | racket court referee net | tennis ball player match sport game opponent hit
        dancing | music rhythm partner ballroom | danc move ballet song beat perform feet graceful
        """,
    ),
)

TOPICS: Mapping[Split, tuple[Topic, ...]] = {"train": TRAIN_TOPICS, "heldout": HELDOUT_TOPICS}
