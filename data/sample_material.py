"""What the rows of make_sample.py are made of: sentence patterns, the events of each label, words for their slots.

The material is synthetic. It was written for this project: people, companies, teams, works and places are invented,
and no sentence reports a real event.
"""

from collections import namedtuple
from itertools import product

# words: synonymous key words of the event, the slot {w} of its patterns.
# headline: the event in its shortest form, for the FRAMES of train.txt.
# train, dev: sentence patterns, without common elements between the two.
Event = namedtuple("Event", "words headline train dev")


# ---------------------------------------------------------------------------------------------------------------------
# Material: slots shared by all events
# ---------------------------------------------------------------------------------------------------------------------

CITIES = "澜州 清屿 禾川 砚江 霁城 泊宁 岚浦 翎山 槐安 珩阳 曲澜 望禾 临霁 东栖 北泊".split()
SURNAMES = "林 陈 周 何 许 沈 陆 顾 韩 魏 宋 叶".split()
GIVEN_NAMES = "知远 屿舟 若溪 明澈 一鸣 书言 子衡 晚晴 思齐 嘉木 念安 景行 云起 小满".split()
MASCOTS = "飞鱼 赤狐 云豹 白鹭 铁牛 山鹰".split()
ROADS = "望江 青石 学府 东环 梧桐 滨河 建新 长桥".split()

# A value may hold slots itself.
SLOTS = {
    "city": CITIES,
    "person": ["".join(name) for name in product(SURNAMES, GIVEN_NAMES)],
    "team": [city + mascot + "队" for city, mascot in product(CITIES, MASCOTS)],
    "road": [name + kind for name, kind in product(ROADS, ("路", "大道", "街"))],
    "company": "澜桥集团 栖禾股份 远峤电子 青麓控股 泊云科技 砚山食品 霁川能源 岚渡物流 朔原药业 汀禾传媒 珩石材料 "
               "沐岭家居 槐序网络 屿海智能 翎航装备 禾曜汽车".split(),
    "fund": "望舒资本 石桥基金 长桥创投 九禾资本 东屿基金 拾禾创投".split(),
    "media": "澜州晚报 禾川日报 清屿新闻网 砚江电视台 霁城早报 泊宁广播".split(),
    "post": "总裁 首席执行官 财务总监 副总经理 董事长 首席技术官 董事会秘书".split(),
    "player": "前锋 后卫 门将 队长 中场 主力 新秀".split(),
    "sport": "篮球 排球 乒乓球 羽毛球 足球 游泳 击剑".split(),
    "league": "{sport}联赛 {sport}超级联赛 {city}{sport}联赛 全国{sport}联赛".split(),
    "event": "{city}公开赛 {sport}邀请赛 {city}马拉松 {sport}锦标赛 {city}杯 青年{sport}大赛 {sport}大奖赛".split(),
    "gadget": "手机 平板电脑 智能手表 扫地机器人 电动车 无线耳机 投影仪 智能音箱 笔记本电脑 无人机 充电宝".split(),
    "app": "舟信 泊付 栖聊 青文库 橙路地图 小禾外卖 云笺邮箱 听澜音乐".split(),
    "district": "{city}老城区 {city}新城社区 {city}河西街道 {city}北苑小区 {city}文昌街道".split(),
    "line": "地铁{n}号线 {n}路公交 {city}高铁 机场快线 跨江大桥 城际铁路 {city}轻轨 环湖公路".split(),
    "school": "{city}大学 {city}师范学院 {city}第{n}中学 {city}实验小学 {city}职业学院 {city}理工大学".split(),
    "place": "{city}北部山区 {city}郊外 {city}石门镇 {city}清水村 {city}矿区 {city}西部山谷".split(),
    "film": "《远山的七封信》 《第十一个夏天》 《雾岭灯塔》 《小镇修表匠》 《长夜渡口》 《倒着游的鱼》 《灯笼巷七号》".split(),
    "artist": "歌手{person} 演员{person} 导演{person} 主持人{person} 作家{person} 青年画家{person}".split(),
    "band": "拾贝乐队 歌手{person} {city}交响乐团 {city}歌舞团 夜灯船乐队 民谣歌手{person} 青年剧团".split(),
    "era": "商代 西周 战国 汉代 唐代 宋代 明代 新石器时代".split(),
    "quarter": "一季度 上半年 三季度 全年 二季度 前三季度".split(),
    "change": "增长 上升 提高 下降 下滑 减少".split(),
    "amount": "{n}亿元 {n}千万元 {count}万元 近{n}亿元 逾{n}亿元".split(),
    "price": [str(value) for value in range(299, 6999, 100)],
    "percent": [f"{value}%" for value in range(3, 68)],
    "score": "2比1 3比0 1比0 3比2 88比80 95比93 4比1".split(),
    "n": [str(value) for value in range(2, 40)],
    "count": [str(value) for value in range(120, 9600, 40)],
    "temp": [str(value) for value in range(14, 27)],
    "heat": [str(value) for value in range(36, 43)],
    "month": [str(value) for value in range(1, 13)],
    "day": [str(value) for value in range(1, 29)],
    "time": "{month}月{day}日 昨日 今天上午 本周三 上周末 日前 近日 {day}日晚间 今晨 周一 当地时间{day}日".split(),
}

# Openings and closings say nothing about the class. Some closings borrow words of another class on purpose.
OPENINGS = {
    "train": ["", "", "", "{time}，", "{time}，", "据{media}报道，", "{media}消息，", "记者{time}获悉，", "据了解，",
              "{media}{time}讯 ", "【快讯】"],
    "dev": ["", "", "", "{media}{time}报道，", "{time}，据{media}消息，", "记者从{media}了解到，", "【{media}】",
            "{time}有消息称，"],
}
CLOSINGS = {
    "train": ["", "", "", "。", "。", "。", "，引发网友热议。", "，有关细节尚未公布。", "，当地居民议论纷纷。",
              "，现场有球迷举牌合影。", "，当时窗外正下着小雨。", "，不少用户留言关注。", "，公司方面未作评论。",
              "，有乘客在地铁上刷到这条消息。", "，消息传出后许多人感到意外。", "，{person}对此表示理解。",
              "，一名正在看电影的观众说并不知情。", "，后续进展{media}将继续关注。"],
    "dev": ["", "", "", "。", "。", "。", "，网友留言不少。", "，居民们对此感到意外。", "，细节还有待公布。",
            "，有球迷和用户在网上议论。", "，当天正下着小雨。", "，一名地铁乘客说刷到了消息。", "，{media}将关注后续。",
            "，{person}未作评论。"],
}
JOINTS = {
    "train": ["{a}；{b}", "{a}，另外，{b}", "{a}，同一天，{b}", "{a}，而{b}", "{a}。另据报道，{b}", "{a}，此前{b}"],
    "dev": ["{a}；同一天里，{b}", "{a}，另有消息说，{b}", "{a}。此外，{b}", "一边是{a}，一边是{b}"],
}

# Frames around the headline {h} of any event, for train.txt only. As all classes share them, a model has to learn the
# key words and cannot do with the frames.
FRAMES = (
    "“{h}”登上热搜", "“{h}”是今天的话题", "{media}头条：{h}", "{person}转发了“{h}”的消息",
    "今天的早间新闻提到{h}", "{h}一事有了新消息", "几位居民在车上聊起{h}", "市民{person}最早看到{h}的报道",
)

# Sentences of data.txt that belong to no node of the tree.
OUT_OF_TREE = ("红烧茄子要先把茄子切块撒盐，静置十分钟后再下锅。", "这只猫喜欢趴在阳台的旧藤椅上打盹，一睡就是半天。")


# ---------------------------------------------------------------------------------------------------------------------
# Material: the tree and its events. The order of the keys is the order of label.txt.
# ---------------------------------------------------------------------------------------------------------------------

EVENTS = {
    "公司动态": Event(
        words="周年庆典 开放日 捐赠活动 员工运动会 企业参访 家属日",
        headline="{company}{w}",
        train="""
            {company}在{city}举办{w}，{n}名员工参加
            {company}的{w}吸引了{n}位合作伙伴到场
            在{city}总部大楼，{company}的{w}持续了一整天
            {company}把今年的{w}放在了{city}
            为答谢客户，{company}筹备了一场{w}
            {company}{post}{person}出席{w}并致辞
        """,
        dev="""
            {person}代表{company}向{w}的来宾致谢
            {n}名合作伙伴走进{company}，参加{w}
            一场{w}让{company}的{city}总部大楼热闹起来
        """,
    ),
    "公司动态##人事变动": Event(
        words="组织架构调整 岗位轮换 部门合并 管理层换岗 团队重组 干部交流",
        headline="{company}{w}",
        train="""
            {company}启动{w}，涉及{n}名中层干部
            {company}宣布新一轮{w}，{n}个部门受到影响
            因业务收缩，{company}在{city}分公司进行{w}
            {company}内部信称，{w}将在{month}月完成
            {company}人力资源部通知，{w}自下月起实行
            {person}在会上解释了{company}此次{w}的安排
        """,
        dev="""
            下月起，{company}将有{n}名中层因{w}更换工作
            一封内部信公布了{company}的{w}方案
            {company}计划用{n}天完成{w}，人力资源部负责通知
        """,
    ),
    "公司动态##人事变动##高管离职": Event(
        words="辞职 离任 卸任 请辞 离职 去职",
        headline="{company}{post}{person}{w}",
        train="""
            {company}{post}{person}因个人原因{w}
            {company}公告称，{post}{person}已正式{w}
            {person}申请{w}，不再担任{company}{post}
            任职{n}年后，{company}{post}{person}选择{w}
            {company}证实{post}{person}{w}的传闻属实
            {person}{w}后，{company}{post}一职暂时空缺
            {company}董事会批准了{post}{person}的{w}请求
            因身体原因，{person}提出{w}并交还{company}{post}的工作
        """,
        dev="""
            {person}告别同事，正式从{company}{post}的工作中{w}
            {company}{post}空缺，{person}{w}获董事会同意
            担任{company}{post}不满{n}年，{person}便{w}了
            {company}确认，{post}{person}的{w}即日生效
        """,
    ),
    "公司动态##人事变动##高管任命": Event(
        words="出任 升任 获任 接任 就任 履新",
        headline="{person}{w}{company}{post}",
        train="""
            {company}宣布由{person}{w}{post}
            {person}正式{w}{company}{post}，任期{n}年
            {company}董事会选举后，{person}{w}新一届{post}
            曾在{company}工作的{person}将{w}{company}{post}
            {company}公告，聘请的{person}{w}{post}
            经过{n}轮面试，{person}{w}{company}{post}
            {n}岁的{person}{w}{company}{post}，分管{city}业务
            {company}新任{post}公布，{person}从下月起{w}
        """,
        dev="""
            {company}迎来新的{post}，{person}即日{w}
            董事会一致同意，{person}{w}{company}{post}
            {person}从{city}分公司回到总部，{w}{company}{post}
            在{company}工作{n}年的{person}{w}新职，成为{post}
        """,
    ),
    "公司动态##获得融资": Event(
        words="A轮融资 B轮融资 天使轮融资 战略投资 股权融资 新一轮注资",
        headline="{company}{w}",
        train="""
            {company}完成{amount}{w}
            {company}宣布获得{amount}{w}，由{fund}领投
            {fund}向{company}提供{amount}{w}
            {company}拿到{w}，金额达{amount}
            {fund}与{fund}共同参与了{company}的{w}
            {company}称{w}将用于{city}工厂建设
            成立{n}年的{company}敲定{amount}{w}
            {company}的{w}已经到账，估值升至{amount}
        """,
        dev="""
            {amount}到账，{company}结束了{w}
            {company}创始人{person}说，{w}的领投方是{fund}
            有了{amount}{w}，{company}打算扩建{city}工厂
            在{w}中，{fund}向{company}投入{amount}
        """,
    ),
    "公司动态##业绩公布": Event(
        words="净利润 营业收入 营收 归母净利润 主营收入 利润总额",
        headline="{company}{w}{change}",
        train="""
            {company}发布{quarter}财报，{w}同比{change}{percent}
            {company}{quarter}{w}为{amount}，同比{change}{percent}
            {company}公布业绩预告，预计{w}{change}{percent}
            受订单影响，{company}{quarter}{w}{change}至{amount}
            财报显示，{company}{w}连续{n}个季度{change}
            {company}交出{quarter}成绩单，{w}{amount}
            {company}{w}{amount}，好于分析师预期
            {company}在业绩说明会上解释{w}{change}的原因
        """,
        dev="""
            {quarter}，{company}录得{w}{amount}，比去年同期{change}{percent}
            {w}{change}{percent}，{company}的{quarter}财报让分析师意外
            {company}{post}{person}谈业绩：{w}{change}主要来自{city}市场
            {company}晚间公布的数据里，{w}{change}了{percent}
        """,
    ),
    "体育赛事": Event(
        words="门票开售 赛程公布 开幕式彩排 抽签仪式 吉祥物揭晓 火炬传递",
        headline="{event}{w}",
        train="""
            {event}{w}，首日吸引{n}人关注
            {event}组委会确认，{w}安排在{month}月{day}日
            {event}的{w}工作由{person}负责
            {city}体育馆承办{event}，{w}受到关注
            {w}后，{event}进入倒计时{n}天
            {n}名志愿者为{event}的{w}忙碌
        """,
        dev="""
            离{event}还有{n}天，{w}引来许多市民
            {event}{w}的消息一出，{city}体育馆门前排起长队
            组委会{person}介绍了{event}{w}的安排
        """,
    ),
    "体育赛事##人事变动": Event(
        words="转会加盟 签约加入 租借到 转投 自由转会到 重返",
        headline="{player}{person}{w}{team}",
        train="""
            {player}{person}从{team}{w}{team}
            {team}官宣，{player}{person}{w}{team}
            {person}{w}{team}，合同为期{n}年
            {team}球员{person}将以{amount}身价{w}{team}
            转会窗关闭前，{person}{w}{team}
            {team}主教练{person}下课，助理教练接任
            {team}经理确认{player}{person}{w}{team}
            体检合格后，{player}{person}{w}{team}
        """,
        dev="""
            {team}失去{player}{person}，他{w}{team}
            合同到期，{person}决定{w}{team}并身披{n}号球衣
            随着主教练下课，{person}{w}{team}
            {w}{team}不再是传闻，{person}的经纪人已经确认
        """,
    ),
    "体育赛事##比赛结果": Event(
        words="战平 小胜 力克 险胜 击败 不敌",
        headline="{team}{w}{team}",
        train="""
            {league}第{n}轮，{team}{score}{w}{team}
            {team}主场{score}{w}{team}
            {team}凭借{person}的进球{w}{team}
            {team}客场{w}{team}，积分榜排名第{n}
            {score}，{team}在{city}{w}{team}
            常规赛焦点战，{team}{w}{team}
        """,
        dev="""
            {person}打进两球，{team}在联赛中{w}{team}
            比分定格在{score}，{team}{w}{team}
            {n}轮过后，{team}{w}{team}，积分榜上升一位
        """,
    ),
    "体育赛事##比赛结果##夺冠": Event(
        words="夺冠 捧杯 登顶 摘金 封王 折桂",
        headline="{team}{w}",
        train="""
            {team}{score}击败{team}，在{event}中{w}
            {person}在{event}{sport}项目上{w}
            {event}决赛落幕，{team}成功{w}
            时隔{n}年，{team}再次{w}
            {n}岁小将{person}首次{w}，成为{event}最年轻的冠军
            {team}卫冕成功，连续{n}年{w}
            {event}收官，{person}逆转对手{w}
            全场高呼{person}的名字，{team}终于{w}
        """,
        dev="""
            {event}冠军诞生，{team}在{city}{w}
            终场哨响，{team}队员相拥庆祝{w}
            {person}一路领先，最终在{event}{w}
            决赛激战{n}分钟，{team}力克{team}{w}
        """,
    ),
    "体育赛事##比赛结果##出局": Event(
        words="出局 被淘汰 无缘晋级 止步小组赛 打道回府 告别赛场",
        headline="{person}{w}",
        train="""
            {team}{score}不敌{team}，遗憾{w}
            种子选手{person}在{event}首轮{w}
            {team}点球大战失利，{w}
            {event}爆出冷门，{team}{w}
            {team}小组垫底，{w}
            {person}因失误过多，在{event}中{w}
            上届冠军{team}意外{w}
            {team}连输{n}场后{w}
        """,
        dev="""
            没能扳平比分，{team}在{event}{w}
            爆冷！{person}不敌无名小将，{w}
            {event}争夺激烈，卫冕冠军{team}{w}
            {team}输掉关键一战，就此{w}
        """,
    ),
    "体育赛事##伤病": Event(
        words="膝盖扭伤 脚踝骨折 跟腱断裂 肌肉拉伤 韧带撕裂 腰部受伤",
        headline="{player}{person}{w}",
        train="""
            {team}{player}{person}{w}，预计休战{n}周
            {person}在训练中{w}，被担架抬出场
            队医确认，{person}{w}需要手术
            {team}公布伤情，{person}{w}
            因{w}，{person}退出{event}
            {person}落地时{w}，提前离场
            {team}再遭打击，{player}{person}{w}
            {person}不顾{w}坚持训练，随后被要求休养
        """,
        dev="""
            {person}倒地不起，经检查为{w}
            {w}让{person}至少缺席{n}场比赛
            {team}主教练证实{player}{person}{w}，将接受手术
            检查结果公布：{person}{w}，要休养{n}周
        """,
    ),
    "科技产品": Event(
        words="行业论坛 用户调研 体验课 专利展示 科普讲座 技术沙龙",
        headline="{gadget}{w}",
        train="""
            {city}举办{gadget}{w}，{n}家厂商参加
            {company}开设{gadget}{w}，市民可免费预约
            {gadget}{w}上，专家讨论了芯片与算法
            {person}在{gadget}{w}中谈到行业走向
            {n}名工程师参与{gadget}{w}
            {gadget}{w}走进{city}校园
        """,
        dev="""
            围绕{gadget}，{company}在{city}开设{w}
            {w}关注{gadget}，{n}位工程师交流算法经验
            {person}来到{gadget}{w}，与厂商代表讨论
        """,
    ),
    "科技产品##新品发布": Event(
        words="发布 推出 首发 开售 预售 揭幕",
        headline="{company}{w}{gadget}",
        train="""
            {company}{w}新款{gadget}，售价{price}元
            {company}在{city}{w}新一代{gadget}
            {company}{w}{gadget}，续航可达{n}小时
            {company}今年首款{gadget}正式{w}
            新品发布会上，{company}{w}三款{gadget}
            {person}站上舞台，为{company}{w}旗舰{gadget}
            {company}将在{month}月{w}轻薄版{gadget}
            {company}的新款{gadget}{w}，起售价{price}元
        """,
        dev="""
            起售价{price}元，{company}新一代{gadget}今天{w}
            等了{n}个月，{company}终于{w}旗舰{gadget}
            {company}{w}的新款{gadget}用上自研芯片，续航提高{percent}
            {person}在发布会上介绍{company}{w}的新一代{gadget}
        """,
    ),
    "科技产品##质量问题": Event(
        words="屏幕闪烁 电池鼓包 异响 充电发热 按键失灵 外壳开裂",
        headline="{company}{gadget}{w}",
        train="""
            多名用户投诉{company}{gadget}{w}
            {company}{gadget}被曝{w}，客服称正在核实
            抽检发现，{company}{gadget}存在{w}
            {person}购买的{gadget}不到{n}天就{w}
            {company}回应{gadget}{w}：将免费维修
            {city}消协收到{n}起{gadget}{w}的投诉
        """,
        dev="""
            {gadget}{w}，{person}找{company}客服讨说法
            {n}名用户拍下{company}{gadget}{w}的照片
            {company}承认部分{gadget}会{w}，愿意免费维修
        """,
    ),
    "科技产品##质量问题##产品召回": Event(
        words="召回 收回 回收 主动召回 紧急召回 追回",
        headline="{company}{w}{gadget}",
        train="""
            因电池隐患，{company}{w}{count}台{gadget}
            {company}宣布在{city}{w}一批{gadget}
            监管部门备案显示，{company}将{w}{count}台{gadget}
            {company}{w}问题{gadget}，并为用户退款
            {company}致歉并{w}存在缺陷的{gadget}
            被{w}的{gadget}共{count}台，由{company}生产
            {company}从{month}月起{w}该批次{gadget}
            接到投诉后，{company}决定{w}{gadget}
        """,
        dev="""
            {count}台{gadget}被{company}{w}，用户可申请退款
            {gadget}存在缺陷，{company}启动{w}程序
            出于安全考虑，{company}{w}{month}月生产的{gadget}
            {company}客服表示，{w}批次的{gadget}可以免费更换
        """,
    ),
    "科技产品##质量问题##系统故障": Event(
        words="宕机 崩溃 瘫痪 无法登录 闪退 中断服务",
        headline="{app}{w}",
        train="""
            {app}突然{w}，大量用户无法使用
            {app}{w}近{n}小时，官方致歉
            因服务器过载，{app}{w}
            {app}更新后频频{w}
            {city}用户反映{app}{w}
            {company}旗下{app}{w}，技术团队抢修
            凌晨{app}{w}，订单数据一度丢失
            {app}{w}登上热搜，客服电话打不通
        """,
        dev="""
            用户打不通客服电话，{app}今天{w}了
            {company}为{app}{w}致歉，称服务器已修好
            {n}小时里{app}两次{w}，网友议论不断
            技术团队发现，{app}{w}是因为服务器断电
        """,
    ),
    "社会民生": Event(
        words="义诊 便民市集 垃圾分类宣传 免费理发 志愿服务 邻里节",
        headline="{district}{w}",
        train="""
            {district}开展{w}，{n}位老人参加
            {w}走进{district}，居民连连称赞
            {district}每月举办一次{w}
            社区工作者{person}组织了{district}的{w}
            {n}名志愿者和居民在{district}参与{w}
            {district}的{w}受到街坊欢迎
        """,
        dev="""
            {n}户居民来到{district}的{w}现场
            {person}和街坊一起为{district}的{w}忙碌
            周末的{district}有一场{w}，老人和孩子都来了
        """,
    ),
    "社会民生##交通出行": Event(
        words="客流高峰 早高峰拥堵 返程高峰 单双号限行 候车拥挤 打车难",
        headline="{city}{w}",
        train="""
            {city}交警提醒，节日期间注意{w}
            {city}火车站迎来{w}，日均{count}人次
            {road}的{w}持续{n}小时
            为应对{w}，{city}增派{n}辆公交车
            {w}期间，{city}地铁延长运营
            {city}交通局公布缓解{w}的办法
        """,
        dev="""
            {count}人次来到火车站，{city}出现{w}
            遇上{w}，{road}的车辆排起长队
            {city}交警在{road}缓解{w}，公交车加开{n}班
        """,
    ),
    "社会民生##交通出行##线路开通": Event(
        words="开通 通车 投入运营 试运行 正式运行 启用",
        headline="{line}{w}",
        train="""
            {city}{line}今日{w}
            {line}{w}，全程只需{n}分钟
            {line}将于{month}月{day}日{w}
            {city}市民期盼已久的{line}{w}
            {line}{w}首日，客流达{count}人次
            建设{n}年，{line}终于{w}
            {line}{w}后，{city}到{city}更方便
            {line}完成验收，即将{w}
        """,
        dev="""
            全程{n}座车站，{city}{line}{w}
            从{city}到{city}更快了，{line}{w}
            通过验收的{line}本周{w}，票价{n}元
            坐上首班车的市民为{line}{w}高兴
        """,
    ),
    "社会民生##交通出行##道路施工": Event(
        words="封闭施工 路面翻修 管网改造 占道施工 半幅封闭 围挡作业",
        headline="{road}{w}",
        train="""
            {road}因{w}禁止通行{n}天
            {road}{w}，车辆请绕行
            {city}交警提醒，{road}将进行{w}
            {road}的{w}预计{month}月完工
            夜间{w}，{road}两边的居民抱怨噪声
            {road}启动{w}，{n}条公交线路改道
            因燃气管道老化，{road}开始{w}
            {w}期间，{road}只留一条车道
        """,
        dev="""
            开车经过{road}请绕行，这里正在{w}
            {n}条公交线路避开{road}，原因是{w}
            {road}两边的商户期盼{w}早日完工
            工人连夜在{road}{w}，预计提前{n}天完工
        """,
    ),
    "社会民生##教育招生": Event(
        words="招生简章 录取分数线 自主招生方案 补录计划 学位摇号结果 新增专业名单",
        headline="{school}{w}",
        train="""
            {school}公布{w}
            {school}{w}出炉，共录取{count}人
            考生可在{month}月查询{school}{w}
            {city}教育局解读{school}的{w}
            {school}招生办就{w}答疑
            家长关注的{school}{w}有了变化
            {school}今年{w}增加{n}个名额
            根据{w}，{school}计划招收{count}名新生
        """,
        dev="""
            {school}在网上公布{w}，考生反应热烈
            {person}拿着{school}的{w}，和家长商量志愿
            {w}出来了，{school}今年多招{n}人
            教育局要求{school}公开{w}
        """,
    ),
    "天气灾害": Event(
        words="多云转晴 气温回升 微风习习 空气质量良好 昼夜温差大 天空少云",
        headline="{city}{w}",
        train="""
            气象台预计，{city}未来{n}天{w}
            {city}{w}，适宜出行
            明天{city}{w}，最高{temp}度
            气象台说，{city}的{w}将持续{n}天
            {w}的天气让{city}市民走出家门
            {city}{w}，早晚注意增减衣物
        """,
        dev="""
            出门正当时，{city}{w}
            气象台{person}表示，{city}本周{w}
            {city}今日{w}，气温{temp}度左右
        """,
    ),
    "天气灾害##气象预警": Event(
        words="大雾黄色预警 寒潮蓝色预警 大风黄色预警 沙尘橙色预警 霜冻蓝色预警 雷电黄色预警",
        headline="{city}{w}",
        train="""
            {city}气象台发布{w}
            {city}拉响{w}，请注意防范
            {w}生效，{city}部分航班延误
            {city}的{w}持续{n}小时
            受冷空气影响，{city}升级{w}
            {city}解除{w}，高速恢复通行
        """,
        dev="""
            {city}部分高速关闭，气象台已发布{w}
            {n}小时内，{city}将一直处于{w}之中
            收到{w}后，{city}市民注意防范
        """,
    ),
    "天气灾害##气象预警##暴雨": Event(
        words="暴雨 大暴雨 强降雨 特大暴雨 短时强降水 雷暴雨",
        headline="{city}{w}",
        train="""
            {city}发布{w}红色预警
            {city}遭遇{w}，{n}小时雨量打破纪录
            {w}预警升级，{city}中小学停课
            气象台预警，{city}今夜有{w}
            {w}来袭，{city}多处积水
            {city}启动{w}应急响应，转移{count}人
            {w}导致{city}{n}条道路被淹
            {city}气象局提醒市民防范{w}
        """,
        dev="""
            {w}红色预警生效，{city}{n}所学校停课
            请尽量不要出门，{city}将迎来{w}
            {count}人连夜转移，{city}正遭遇{w}
            {city}地下车库积水，气象局称{w}还会持续
        """,
    ),
    "天气灾害##气象预警##高温": Event(
        words="高温 酷暑 热浪 酷热 持续高温 晴热高温",
        headline="{city}{w}",
        train="""
            {city}发布{w}橙色预警，最高{heat}度
            {w}来袭，{city}用电量创新高
            {city}连续{n}天{w}，户外作业暂停
            气象台升级{w}预警，提醒市民防中暑
            {city}遭遇{w}，最高气温{heat}度
            {w}难耐，{city}开放{n}处纳凉点
            {city}启动{w}应急响应，工地午间停工
            {city}医院中暑病人增多，{w}仍将持续
        """,
        dev="""
            {heat}度！{city}拉响{w}预警
            户外作业要防中暑，{city}的{w}还会持续{n}天
            {city}用电量上升，{w}红色预警生效
            {w}之下，{city}市民来到纳凉点避暑
        """,
    ),
    "天气灾害##地质灾害": Event(
        words="山体滑坡 泥石流 地震 地面塌陷 山体崩塌 落石",
        headline="{place}{w}",
        train="""
            {place}发生{w}，{n}人受伤
            {place}突发{w}，救援人员赶赴现场
            {w}造成{place}{n}间房屋受损
            {place}的{w}阻断了进山公路
            {w}过后，{place}{count}名村民转移安置
            专家赶到{place}调查{w}原因
            {place}遭遇{w}，电力通信中断
            消防队在{place}{w}现场搜救
        """,
        dev="""
            {n}间房屋受损，{place}发生{w}
            救援人员连夜进山，{place}的{w}已致{n}人受伤
            {place}村民讲述{w}发生的一刻
            公路被{w}阻断，{place}通信一度中断
        """,
    ),
    "文化娱乐": Event(
        words="专访 新书分享会 粉丝见面会 慈善晚宴 写真拍摄 综艺录制",
        headline="{artist}{w}",
        train="""
            {artist}出席{w}，谈起童年往事
            {artist}在{city}参加{w}
            {artist}的{w}现场气氛温馨
            {w}结束后，{artist}与粉丝们合影
            {artist}晒出{w}照片，穿着简约
            {artist}在{w}中回忆学艺经历
        """,
        dev="""
            {w}上，{artist}说起自己的童年
            {artist}来到{city}的{w}，与粉丝聊了{n}分钟
            穿着白色长裙的{artist}结束了{w}
        """,
    ),
    "文化娱乐##影视上映": Event(
        words="上映 公映 开播 首播 定档 点映",
        headline="{film}{w}",
        train="""
            电影{film}{w}，票房达{amount}
            {film}宣布{w}，主演{person}亮相
            由{person}执导的{film}将在{month}月{w}
            电视剧{film}{w}，收视率第一
            {film}{w}首周口碑不俗
            拍摄{n}年的{film}终于{w}
            影迷期待的{film}今日{w}
            {film}{w}时间公布，预告片同步放出
        """,
        dev="""
            {person}主演的{film}本周{w}，影迷期待
            {film}{w}三天，票房已过{amount}
            预告片放出后，{film}确认{w}
            {city}观众走进影院，等待{film}{w}
        """,
    ),
    "文化娱乐##演出活动": Event(
        words="演唱会 音乐会 话剧 音乐节 舞剧 巡演",
        headline="{band}{w}",
        train="""
            {band}{w}在{city}大剧院上演
            {band}的{w}门票{n}分钟售罄
            {count}名观众观看了{band}{w}
            {band}{w}{city}站落幕
            {w}当晚，{band}返场{n}次
            {band}带着全新{w}来到{city}
            {band}因故推迟{city}的{w}
            {city}大剧院公布{band}{w}票价
        """,
        dev="""
            观众起立鼓掌，{band}在{city}结束{w}
            {band}{w}加场，{city}大剧院的票很快售罄
            看完{band}的{w}，{person}久久不愿离场
            {count}人合唱，{band}{w}在{city}上演
        """,
    ),
    "文化娱乐##考古发现": Event(
        words="古墓 古城遗址 青铜器 彩陶 窑址 壁画",
        headline="{city}{era}{w}",
        train="""
            考古队在{city}发现{era}{w}
            {city}一工地挖出{era}{w}
            {city}博物馆首次展出新发现的{era}{w}
            {era}{w}现身{city}，专家称保存完好
            专家修复{city}{era}{w}，历时{n}年
            {city}发掘{n}处{era}{w}
            {person}带队发掘的{era}{w}公布成果
            {city}村民报告发现疑似{era}{w}
        """,
        dev="""
            保存完好的{era}{w}在{city}被发现
            考古队员{person}花{n}天清理出{era}{w}
            沉睡地下多年，{city}的{era}{w}被发掘
            专家认为，{city}发现的{w}属于{era}
        """,
    ),
}
